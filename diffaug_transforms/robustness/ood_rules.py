"""Rules of out-of-distribution scores: what is done to penultimate features, and the confidence of the logits.

Those of OpenOOD (github.com/Jingkang50/OpenOOD). Features are (B, n), after pooling, at least 0 as after a ReLU; each
image's are shaped by themselves. pytorch-ood's detectors give the same scores where their maps (B, C, H, W) are pooled
features as (B, n, 1, 1) and their percentiles, fractions and .65 by default, are these; a row of zeros gets NaN there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def react(features: Tensor, threshold: float) -> Tensor:
    """Features clipped at a threshold from above: ReAct (Sun et al., arXiv 2111.12797). (B, n)."""
    return features.clamp(max=threshold)


def ash_b(features: Tensor, percentile: float = 90) -> Tensor:
    """The k largest set to s1 / k, the others to 0, s1 the sum of all: ASH-B (Djurisic et al., arXiv 2209.09858).

    ``percentile``, here and below, is the share of the n features that is not among the k largest:
    k = n - round(n * percentile / 100). ValueError where that is 0.

    Example:
        >>> ash_b(torch.tensor([[4.0, 0.0, 3.0, 1.0]]), 50)
        tensor([[4., 0., 4., 0.]])
    """
    kept = _largest(features, percentile)
    means = features.sum(1, keepdim=True) / kept.shape[1]
    return torch.zeros_like(features).scatter(1, kept, means.expand(kept.shape))


def ash_p(features: Tensor, percentile: float = 90) -> Tensor:
    """The k largest kept, the others set to 0: ASH-P. (B, n)."""
    kept = _largest(features, percentile)
    return torch.zeros_like(features).scatter(1, kept, features.gather(1, kept))


def ash_s(features: Tensor, percentile: float = 90) -> Tensor:
    """The k largest times exp(s1 / s2), s2 their sum, the others set to 0: ASH-S. (B, n)."""
    pruned = ash_p(features, percentile)
    return pruned * _sharpening(features, pruned)


def scale(features: Tensor, percentile: float = 85) -> Tensor:
    """All features times ASH-S's exp(s1 / s2): SCALE (Xu et al., arXiv 2310.00227). (B, n)."""
    return features * _sharpening(features, ash_p(features, percentile))


def _largest(features: Tensor, percentile: float) -> Tensor:
    """The places of each row's k largest features, (B, k)."""
    n = features.shape[1]
    k = n - round(n * percentile / 100)
    if k < 1:
        raise ValueError(f"percentile must leave at least one of the {n} features. Got {percentile}")
    return features.topk(k, dim=1).indices


def _sharpening(features: Tensor, pruned: Tensor) -> Tensor:
    s1, s2 = features.sum(1, keepdim=True), pruned.sum(1, keepdim=True)
    # A row of zeros stays one; in OpenOOD its 0 / 0 makes the score NaN.
    return torch.where(s1 == s2, 1.0, s1 / s2).exp()


def energy(logits: Tensor) -> Tensor:
    """The negated energy, log sum exp (Liu et al., arXiv 2010.03759): (B, K) to (B,), higher = more confident."""
    return logits.logsumexp(1)


def max_softmax(logits: Tensor) -> Tensor:
    """The largest probability, MSP (Hendrycks and Gimpel, arXiv 1610.02136): (B, K) to (B,)."""
    return logits.softmax(1).amax(1)


@dataclass(frozen=True)
class Method:
    """``shape(features, percentile)``, or ``shape(features, threshold)`` where the method is fitted."""

    shape: Callable[[Tensor, Any], Tensor]
    confidence: Callable[[Tensor], Tensor]
    percentile: float | None
    fitted: bool = False


def _unchanged(features: Tensor, percentile: None) -> Tensor:
    return features


#: With the percentiles of OpenOOD's configuration files.
METHODS = {
    "msp": Method(_unchanged, max_softmax, None),
    "react": Method(react, energy, 90, fitted=True),
    "ash-b": Method(ash_b, energy, 90),
    "ash-p": Method(ash_p, energy, 90),
    "ash-s": Method(ash_s, energy, 90),
    "scale": Method(scale, energy, 85),
}
OOD_METHODS = tuple(METHODS)
