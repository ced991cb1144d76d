"""How well scores tell images out of distribution from those in it. OOD is the positive class, as in OpenOOD.

All are fractions in [0, 1], exact, with images of equal score taken together; they depend on the scores' order alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

Scores = Tensor | np.ndarray | Sequence[float]


def auroc(id_scores: Scores, ood_scores: Scores) -> float:
    """The probability that an OOD image scores above one in distribution, ties counted half: .5 is chance.

    Args:
        id_scores: (N,) of images in distribution, higher = OOD.
        ood_scores: (M,) of images out of distribution.

    Raises:
        ValueError: no scores of one kind, where it is undefined; scores that are NaN or not of one dimension.

    Example:
        >>> auroc([0.1, 0.4, 0.4], [0.4, 0.9])  # (0.5 + 0.5 + 1 + 1 + 1 + 1) / 6
        0.8333333333333334
    """
    negative, positive = _check("id_scores", id_scores), _check("ood_scores", ood_scores)
    below = np.searchsorted(np.sort(negative), positive, side="left")
    not_above = np.searchsorted(np.sort(negative), positive, side="right")
    return float((below + not_above).sum() / (2 * len(negative) * len(positive)))


def fpr95(id_scores: Scores, ood_scores: Scores) -> float:
    """The share of images in distribution that are flagged where at least 95 % of the OOD ones are: 0 is best.

    The threshold is the highest score that flags so many. Arguments and errors are ``auroc``'s.

    Example:
        >>> fpr95([0.1, 0.2, 0.4, 0.8], [0.3, 0.5, 0.9])
        0.5
    """
    negative, positive = _check("id_scores", id_scores), _check("ood_scores", ood_scores)
    needed = -(-95 * len(positive) // 100)  # rounded up, in integers: .95 * N may be off by a rounding
    threshold = np.sort(positive)[-needed]
    return float((negative >= threshold).mean())


def aupr(id_scores: Scores, ood_scores: Scores) -> float:
    """AUPR-out, as average precision: the mean over OOD images of the precision at their score. 1 is best.

    The share of OOD images is chance. OpenOOD joins the curve's points by lines instead, which gives more where scores
    are tied, (1 + chance) / 2 where all are. AUPR-in, of images in distribution as positives, is
    ``aupr(-ood_scores, -id_scores)``. Arguments and errors are ``auroc``'s.

    Example:
        >>> aupr([0.1, 0.2, 0.4, 0.8], [0.4, 0.9])  # precision 2 / 4 and 1 / 1
        0.75
    """
    negative, positive = _check("id_scores", id_scores), _check("ood_scores", ood_scores)
    false = len(negative) - np.searchsorted(np.sort(negative), positive, side="left")
    true = len(positive) - np.searchsorted(np.sort(positive), positive, side="left")
    return float((true / (true + false)).mean())


def _check(name: str, scores: Scores) -> np.ndarray:
    array = np.asarray(scores.detach().cpu().double() if isinstance(scores, Tensor) else scores, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} must be (N,), N at least 1. Got shape {array.shape}")
    if np.isnan(array).any():
        raise ValueError(f"{name} must not be NaN. Got {int(np.isnan(array).sum())} NaN of {len(array)}")
    return array
