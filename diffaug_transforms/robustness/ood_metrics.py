"""How well scores separate images out of distribution (OOD) from images in distribution (ID).

The metrics are exact and in [0, 1]. They depend only on the order of the scores. OOD is the positive class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..arguments import shown

Scores = Tensor | np.ndarray | Sequence[float]


def auroc(id_scores: Scores, ood_scores: Scores) -> float:
    """The probability that an OOD image scores above an ID image. Ties count half, and 0.5 is chance.

    Args:
        id_scores: (N,) of images in distribution, higher = OOD.
        ood_scores: (M,) of images out of distribution.

    Raises:
        ValueError: one of the two is empty, not of one dimension, or holds NaN.

    Example:
        >>> auroc([0.1, 0.4, 0.4], [0.4, 0.9])  # (0.5 + 0.5 + 1 + 1 + 1 + 1) / 6
        0.8333333333333334
    """
    negative, positive = _check_scores(id_scores, ood_scores)
    below = np.searchsorted(np.sort(negative), positive, side="left")
    not_above = np.searchsorted(np.sort(negative), positive, side="right")
    return float((below + not_above).sum() / (2 * len(negative) * len(positive)))


def fpr95(id_scores: Scores, ood_scores: Scores) -> float:
    """The share of ID images that are flagged if at least 95 % of the OOD images are flagged. 0 is best.

    The threshold is the highest score that flags so many OOD images. The arguments and errors are those of ``auroc``.

    Example:
        >>> fpr95([0.1, 0.2, 0.4, 0.8], [0.3, 0.5, 0.9])
        0.5
    """
    negative, positive = _check_scores(id_scores, ood_scores)
    needed = -(-95 * len(positive) // 100)  # rounded up in integers, because 0.95 * N may be off by a rounding error
    threshold = np.sort(positive)[-needed]
    return float((negative >= threshold).mean())


def aupr(id_scores: Scores, ood_scores: Scores) -> float:
    """AUPR-out as average precision: the mean over the OOD images of the precision at their score. 1 is best.

    Chance is the share of OOD images. OpenOOD joins the points of the curve by straight lines, so its number differs.
    Without ties its number is less: by 0.002 for two sets of 100 normal scores, by 0.00003 for two of 10,000. With ties
    it may be much more: (1 + chance) / 2 if all scores are equal. AUPR-in has ID images as positives:
    ``aupr(-ood_scores, -id_scores)``. The
    arguments and errors are those of ``auroc``.

    Example:
        >>> aupr([0.1, 0.2, 0.4, 0.8], [0.4, 0.9])  # precision 2 / 4 and 1 / 1
        0.75
    """
    negative, positive = _check_scores(id_scores, ood_scores)
    false = len(negative) - np.searchsorted(np.sort(negative), positive, side="left")
    true = len(positive) - np.searchsorted(np.sort(positive), positive, side="left")
    return float((true / (true + false)).mean())


def _check_scores(id_scores: Scores, ood_scores: Scores) -> list[np.ndarray]:
    arrays = []
    for name, scores in (("id_scores", id_scores), ("ood_scores", ood_scores)):
        if isinstance(scores, Tensor) and scores.is_complex():
            raise TypeError(f"{name} must be real numbers. Got {scores.dtype}")
        try:
            array = np.asarray(scores.detach().cpu().double() if isinstance(scores, Tensor) else scores, np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be numbers. Got {shown(scores)}") from error
        if array.ndim != 1 or not len(array):
            raise ValueError(f"{name} must be (N,), N at least 1. Got shape {array.shape}")
        if np.isnan(array).any():
            raise ValueError(f"{name} must not hold NaN. Got {int(np.isnan(array).sum())} NaN of {len(array)}")
        arrays.append(array)
    return arrays
