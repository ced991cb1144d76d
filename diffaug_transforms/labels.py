"""The labels in a sample: where they are, and what they must be. Only what asks for labels calls this."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .arguments import listed, shown
from .without_waiting import LateChecks, held_within, send

#: ``labels_getter`` of the transforms: "default" for ``find_labels``, or what finds the labels in a sample.
LabelsGetter = str | Callable[[Any], Any] | None


def as_labels_getter(labels_getter: Any) -> Callable[[Any], Any] | None:
    """``find_labels`` for "default"; a callable or None as it is. Otherwise ValueError or TypeError."""
    if labels_getter == "default":
        return find_labels
    if labels_getter is None or callable(labels_getter):
        return labels_getter
    kind = ValueError if isinstance(labels_getter, str) else TypeError
    raise kind(f'labels_getter must be "default", a callable or None. Got {shown(labels_getter)}')


def find_labels(sample: Any) -> Any:
    """The labels in a sample, where torchvision's v2.MixUp looks for them; None if there are none.

    - in a tuple or list: its second entry, or, if that is a dict, the labels in it;
    - in a dict: the entry under "labels", in any case, else the first entry whose key holds "label".

    Example:
        >>> find_labels({"image": None, "Label": 3})
        3
    """
    if isinstance(sample, (tuple, list)):
        sample = sample[1] if len(sample) > 1 else None
        if not isinstance(sample, Mapping):
            return sample
    elif not isinstance(sample, Mapping):  # images alone
        return None
    names = [key for key in sample if isinstance(key, str)]
    exact = [key for key in names if key.lower() == "labels"]
    return next((sample[key] for key in exact + [key for key in names if "label" in key.lower()]), None)


def class_names_in(classifier: Any) -> tuple[str, ...]:
    """A classifier's ``classes``, if it has them and they are names."""
    names = getattr(classifier, "classes", None)
    return tuple(names) if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names) else ()


def as_labels(
    labels: Any,
    number: int,
    device: torch.device | str,
    num_classes: int | None = None,
    late_checks: LateChecks | None = None,
    class_names: Sequence[str] = (),
) -> Tensor:
    """Labels as int64 (number,) on a device. Those of the host are checked there, and sent without waiting.

    Args:
        labels: integers: a tensor, an array, a list, or one int.
        number: of images.
        num_classes: labels must be below it. None: any are right.
        late_checks: where the check of labels on a device other than the CPU goes. None: they are not checked.
        class_names: in the order of the labels, for the errors, if they are known.

    Raises:
        ValueError: None, no integers, not one per image, or outside 0...num_classes-1.
    """
    if labels is None:
        raise ValueError("labels must be one per image. Got None")
    try:
        index = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        known = f", 0...{len(class_names) - 1} for {listed(class_names)}" if class_names else ""
        raise ValueError(f"labels must be integer classes{known}. Got {shown(labels)}") from error
    if not index.numel():
        index = index.long()  # an empty list has no integers to tell its type by
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        cure = ": put DiffAug before MixUp and CutMix" if index.ndim > 1 else ""
        raise ValueError(f"labels must be integer classes. Got {index.dtype}{cure}")
    index = index.reshape(-1)
    if len(index) != number:
        raise ValueError(f"labels must be one per image. Got {len(index)} for {number} images")
    return send(check_labels(index.long(), num_classes, late_checks, class_names), torch.device(device))


def check_labels(
    labels: Tensor,
    num_classes: int | None,
    late_checks: LateChecks | None = None,
    class_names: Sequence[str] = (),
) -> Tensor:
    """The labels. ValueError unless all lie in 0...num_classes-1; None checks the lower end alone.

    On a device other than the CPU reading them would wait. With ``late_checks`` they are moved into the range there,
    and the error comes in a later call.
    """
    if torch.compiler.is_compiling():
        return labels
    if labels.device.type != "cpu":
        if late_checks is None or num_classes is None:
            return labels
        return held_within(labels, num_classes, late_checks, lambda ends: _error_of(ends, num_classes, class_names))
    if error := _error_of(labels.tolist(), num_classes, class_names):
        raise error
    return labels


def _error_of(labels: Sequence[float], num_classes: int | None, class_names: Sequence[str]) -> ValueError | None:
    """The error for labels outside 0...num_classes-1, or None."""
    top = math.inf if num_classes is None else num_classes
    wrong = [label for label in labels if not 0 <= label < top]
    limits = "at least 0" if num_classes is None else f"in 0...{num_classes - 1}"
    limits += f" ({listed(class_names)})" if class_names else ""
    return ValueError(f"labels must be {limits}. Got {wrong[0]}") if wrong else None
