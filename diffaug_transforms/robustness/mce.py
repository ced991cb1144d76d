"""Mean corruption error: how a classifier's errors on ImageNet-C compare to a baseline's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .corruption_constants import BASELINE_ERRORS
from .corruptions import CORRUPTIONS

Errors = Mapping[str, float | Sequence[float]]


def mean_corruption_error(errors: Errors, baseline: str | Errors = "alexnet") -> float:
    """mCE in percent, 100 for the baseline itself (Hendrycks and Dietterich, arXiv 1903.12261, section 4.1).

    The corruption error is CE_c = sum_s E_(s, c) / sum_s E_(s, c) of the baseline, s the five severities, and mCE is
    100 times its mean over the 15 ``CORRUPTIONS``.

    Args:
        errors: top-1 errors in [0, 1] of each corruption: the mean over the five severities, or the five. Other keys,
            such as ``clean``, are left out.
        baseline: its errors, likewise and above 0; or ``alexnet``, the published ones of ImageNet-C.

    Raises:
        ValueError: a corruption is missing, an error is not as above, or the baseline is unknown.

    Example:
        >>> mean_corruption_error({corruption: 0.5 for corruption in CORRUPTIONS}, {c: 0.8 for c in CORRUPTIONS})
        62.5
    """
    if isinstance(baseline, str):
        if baseline not in BASELINE_ERRORS:
            names = " or ".join(map(repr, BASELINE_ERRORS))
            raise ValueError(f"baseline must be {names} or a mapping of errors. Got {baseline!r}")
        baseline = BASELINE_ERRORS[baseline]
    means, references = _average("errors", errors), _average("baseline", baseline)
    zero = [corruption for corruption, error in references.items() if error == 0]
    if zero:
        raise ValueError(f"baseline's errors must be above 0. Got 0 for {', '.join(zero)}")
    return 100 * float(np.mean([means[corruption] / references[corruption] for corruption in CORRUPTIONS]))


def _average(name: str, errors: Errors) -> dict[str, float]:
    """The mean over severities of each of the 15 corruptions."""
    missing = [corruption for corruption in CORRUPTIONS if corruption not in errors]
    if missing:
        raise ValueError(f"{name} must hold all 15 corruptions. Got none for {', '.join(missing)}")
    means = {}
    for corruption in CORRUPTIONS:
        values = np.asarray(errors[corruption], dtype=np.float64)
        if values.shape not in ((), (5,)):
            raise ValueError(f"{name} must be a mean or 5 values. Got shape {values.shape} for {corruption}")
        # The comparison is false for NaN too.
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"{name} must be in [0, 1]. Got {values.tolist()} for {corruption}")
        means[corruption] = float(values.mean())
    return means
