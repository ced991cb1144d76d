"""From the votes of a smoothed classifier's draws to its class and certified radius: the statistics of smoothing."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any, NamedTuple

from torch import Tensor

#: The prediction where the draws decide nothing.
ABSTAIN = -1


class Certificate(NamedTuple):
    """A class, or ``ABSTAIN``, and the l2 radius in pixels within which the smoothed classifier keeps to it."""

    prediction: int
    radius: float


def certify_votes(prediction: int, count: int, n: int, sigma: float, failure_probability: float) -> Certificate:
    """The certificate of a class chosen beforehand that won ``count`` of ``n`` draws (Cohen et al. 2019, CERTIFY).

    With p the lower bound of its probability, the radius is sigma * Phi^-1(p); p below 1/2 abstains, with radius 0.

    Example:
        >>> prediction, radius = certify_votes(3, count=990, n=1000, sigma=0.5, failure_probability=0.001)
        >>> prediction, round(radius, 3)
        (3, 0.989)
    """
    probability = lower_confidence_bound(count, n, failure_probability)
    if probability < 0.5:
        return Certificate(ABSTAIN, 0.0)
    return Certificate(prediction, sigma * NormalDist().inv_cdf(probability))


def predict_votes(votes: Tensor, failure_probability: float) -> int:
    """The class that won most of the votes, int (K,), or ``ABSTAIN`` (Cohen et al. 2019, PREDICT).

    A two-sided binomial test of the first two classes must reject, at level ``failure_probability``, that a vote for
    one of them goes to either with probability 1/2.

    Example:
        >>> import torch
        >>> predict_votes(torch.tensor([1, 40, 9]), 0.001), predict_votes(torch.tensor([1, 28, 21]), 0.001)
        (1, -1)
    """
    test = import_stats().binomtest
    most, classes = votes.topk(2)
    first, both = int(most[0]), int(most.sum())
    return int(classes[0]) if test(first, both, 0.5).pvalue <= failure_probability else ABSTAIN


def lower_confidence_bound(count: int, n: int, failure_probability: float) -> float:
    """Clopper and Pearson's one-sided lower bound of a probability, from ``count`` successes in ``n`` draws.

    It exceeds the true probability with probability of at most ``failure_probability``. Of n successes it is
    failure_probability^(1/n). ImportError without SciPy.

    Example:
        >>> round(lower_confidence_bound(100, 100, 0.001), 4), round(0.001 ** (1 / 100), 4)
        (0.9333, 0.9333)
    """
    test = import_stats().binomtest(count, n, alternative="greater")
    return float(test.proportion_ci(1 - failure_probability, "exact").low)


def import_stats() -> Any:
    """``scipy.stats``; ImportError that names the extra where SciPy is missing."""
    try:
        from scipy import stats
    except ImportError as error:
        raise ImportError(f'smoothing needs SciPy: pip install "diffaug-transforms[benchmarks]" ({error})') from error
    return stats
