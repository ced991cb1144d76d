"""How predictions on test sets are judged: which are correct, and the mean corruption error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..arguments import check_instance, shown
from ..without_waiting import kept_on
from .corruptions import CORRUPTIONS

Errors = Mapping[str, float | Sequence[float]]

#: AlexNet's top-1 errors on ImageNet-C, each the mean over the severities. Source: the constants of
#: google-research/augmix, ``imagenet.py``, taken from hendrycks/robustness.
BASELINE_ERRORS: dict[str, dict[str, float]] = {
    "alexnet": {
        "gaussian_noise": 0.886428,
        "shot_noise": 0.894468,
        "impulse_noise": 0.922640,
        "defocus_blur": 0.819880,
        "glass_blur": 0.826268,
        "motion_blur": 0.785948,
        "zoom_blur": 0.798360,
        "snow": 0.866816,
        "frost": 0.826572,
        "fog": 0.819324,
        "brightness": 0.564592,
        "contrast": 0.853204,
        "elastic_transform": 0.646056,
        "pixelate": 0.717840,
        "jpeg_compression": 0.606500,
    },
}


def correct(logits: Tensor, targets: Tensor, candidates: Sequence[int] | None = None) -> Tensor:
    """Whether each image's most probable class is a right one.

    Args:
        logits: (B, K) over all classes.
        targets: int64 (B,); or (B, M) for images with up to M right classes, padded with -1. An image with -1 alone has
            no right class. On the CPU they are checked without waiting for the device of ``logits``.
        candidates: the only classes that a prediction is chosen from, see ``candidate_classes``. None means all K.

    Returns:
        bool (B,) on the device of ``logits``.

    Raises:
        ValueError: the shapes do not fit, or a target or candidate is not below K.

    Example:
        >>> logits = torch.tensor([[0.2, 9.0, 0.1], [0.2, 9.0, 0.1]])
        >>> correct(logits, torch.tensor([0, 1]))
        tensor([False,  True])
        >>> correct(logits, torch.tensor([[0, 1], [2, -1]]), candidates=(0, 2))
        tensor([ True, False])
    """
    for name, tensor in (("logits", logits), ("targets", targets)):
        check_instance(name, tensor, Tensor)
    if logits.ndim != 2 or logits.is_complex():
        raise ValueError(f"logits must be (B, K). Got shape {tuple(logits.shape)}")
    number, num_classes = logits.shape
    if targets.ndim not in (1, 2) or len(targets) != number:
        raise ValueError(f"targets must be ({number},) or ({number}, M). Got shape {tuple(targets.shape)}")
    _check_classes("targets", targets, -1, num_classes)
    if candidates is None:
        predicted = logits.argmax(1)
    else:
        classes = _as_classes(candidates, num_classes, logits.device)
        predicted = classes[logits[:, classes].argmax(1)]
    targets = targets[:, None] if targets.ndim == 1 else targets
    return (targets.to(logits.device, non_blocking=True) == predicted[:, None]).any(1)


def _as_classes(candidates: Sequence[int], num_classes: int, device: torch.device) -> Tensor:
    """The candidates as int64 on a device."""
    try:
        classes = torch.as_tensor(candidates)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"candidates must be classes, or None. Got {shown(candidates)}") from error
    if classes.ndim != 1 or not len(classes):
        raise ValueError(f"candidates must be classes, one at least. Got {shown(candidates)}")
    _check_classes("candidates", classes, 0, num_classes)
    return classes if device.type == "cpu" else kept_on(tuple(classes.tolist()), torch.int64, device)


def _check_classes(name: str, values: Tensor, lowest: int, num_classes: int) -> None:
    """ValueError or TypeError unless they are integers in lowest...num_classes - 1."""
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{name} must be integers. Got {values.dtype}")
    if not values.numel():
        return
    low, high = torch.stack(torch.aminmax(values)).tolist()
    if high >= num_classes:
        raise ValueError(f"{name} must be below the {num_classes} classes of the logits. Got {high}")
    if low < lowest:
        raise ValueError(f"{name} must be at least {lowest}. Got {low}")


def mean_corruption_error(errors: Errors, baseline: str | Errors = "alexnet") -> float:
    """The mean corruption error, mCE, in percent (Hendrycks and Dietterich, arXiv 1903.12261, section 4.1).

    For corruption c, CE_c = sum_s E_(s, c) / sum_s E_(s, c) of the baseline, over the five severities s. mCE is 100
    times the mean of CE_c over the 15 ``CORRUPTIONS``. The baseline itself has an mCE of 100.

    Args:
        errors: the top-1 error in [0, 1] of each corruption: one mean over the five severities, or five values. Other
            keys, such as ``clean``, are ignored.
        baseline: the errors of the baseline, in the same form and above 0. ``alexnet`` stands for AlexNet's published
            errors on ImageNet-C.

    Raises:
        ValueError: a corruption is missing, an error is not as above, or the baseline is unknown.

    Example:
        >>> mean_corruption_error({corruption: 0.5 for corruption in CORRUPTIONS}, {c: 0.8 for c in CORRUPTIONS})
        62.5
    """
    if isinstance(baseline, str):
        if baseline not in BASELINE_ERRORS:
            raise ValueError(f"baseline must be 'alexnet' or a mapping of errors. Got {baseline!r}")
        baseline = BASELINE_ERRORS[baseline]
    means, baseline_means = _mean_over_severities("errors", errors), _mean_over_severities("baseline", baseline)
    if zero := [corruption for corruption, error in baseline_means.items() if error == 0]:
        raise ValueError(f"baseline's errors must be above 0. Got 0 for {', '.join(zero)}")
    return 100 * float(np.mean([means[corruption] / baseline_means[corruption] for corruption in CORRUPTIONS]))


def _mean_over_severities(name: str, errors: Errors) -> dict[str, float]:
    """The mean error of each of the 15 corruptions."""
    check_instance(name, errors, Mapping)
    if missing := [corruption for corruption in CORRUPTIONS if corruption not in errors]:
        raise ValueError(f"{name} must hold all 15 corruptions. Got none for {', '.join(missing)}")
    means = {}
    for corruption in CORRUPTIONS:
        try:
            values = np.asarray(errors[corruption], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be numbers. Got {shown(errors[corruption])} for {corruption}") from error
        if values.shape not in ((), (5,)):
            raise ValueError(f"{name} must be a mean or 5 values. Got shape {values.shape} for {corruption}")
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"{name} must be in [0, 1]. Got {values.tolist()} for {corruption}")
        means[corruption] = float(values.mean())
    return means
