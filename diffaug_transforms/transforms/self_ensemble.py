"""SelfEnsemble: a classifier's answers to an image and to its adapted version, made one."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .checks import Normalize, as_normalize, to_float, to_pixels


class SelfEnsemble(nn.Module):
    """A classifier asked twice, about the image and about its adaptation, its two answers joined by a rule.

    (Gao et al., CVPR 2023, "Back to the Source: Diffusion-Driven Adaptation to Test-Time Corruption", and
    ``model_adapt/evaluation.py`` of shiyegao/DDA.) It stands where the classifier stood: images in, log-probabilities
    (B, K) out, which are valid logits. With p the probabilities for the image, q those for its adaptation and H the
    entropy, the rules are, image by image (in brackets the reference's name):

    - ``"mean"`` [sum]: (p + q) / 2, the paper's self-ensemble;
    - ``"confidence"`` [confidence]: the one whose largest probability is higher, q where they tie;
    - ``"entropy"`` [entropy]: the one whose entropy is lower, q where they tie;
    - ``"confidence_mean"`` [confidence_sum]: (max(p) p + max(q) q) / (max(p) + max(q));
    - ``"entropy_mean"`` [entropy_sum]: (H(q) p + H(p) q) / (H(p) + H(q)), the plain mean where both entropies are 0.

    Entropy and confidence are those of p and q. The reference differs: it takes the softmax of outputs that are
    probabilities already before it computes either, and its second "entropy" is the cross-entropy of q and p; so
    its choices and weights can be others. Its rule "var" and those that mix pixels are left out.

    Args:
        classifier: any module from normalised images (B, C, H, W) to logits (B, K).
        adapt: module or callable from float32 images (B, C, H, W) in [0, 1] to adapted images of the same shape and
            range, or uint8: ``DiffAug(...)``, or a diffusion-driven adaptation.
        rule: one of the five names above.
        normalize: as DiffAugEnsemble's; ``adapt`` sees images that are not normalised.

    Raises:
        ValueError: for an unknown rule; in the call for images that are not uint8 or in [0, 1], and for an ``adapt``
            that returns another shape or range.
        TypeError: for an ``adapt`` that is not callable.

    Example:
        >>> classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
        >>> robust = SelfEnsemble(classifier, DiffAug("cifar10", timesteps=[30]), rule="confidence_mean")
        >>> robust(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        classifier: nn.Module,
        adapt: Callable[[Tensor], Tensor],
        *,
        rule: str = "mean",
        normalize: Normalize = None,
    ) -> None:
        super().__init__()
        if rule not in RULES:
            raise ValueError(f"rule must be one of {tuple(RULES)}. Got {rule!r}")
        if not callable(adapt):
            raise TypeError(f"adapt must be callable. Got {type(adapt).__name__}")
        self.classifier = classifier
        self.adapt = adapt
        self.rule = rule
        self.normalize = as_normalize(normalize)

    def forward(self, images: Tensor) -> Tensor:
        """Log-probabilities (B, K), float32, of images uint8 or in [0, 1], (B, C, H, W)."""
        batch = to_float(to_pixels(images))
        adapted = self.adapt(batch) if len(batch) else batch
        if adapted.shape != batch.shape:
            raise ValueError(f"adapt must return its images' shape, {tuple(batch.shape)}. Got {tuple(adapted.shape)}")
        return RULES[self.rule](self._log_probabilities(batch), self._log_probabilities(to_float(adapted)))

    def predict_proba(self, images: Tensor) -> Tensor:
        """Probabilities (B, K): the exponential of ``forward``."""
        return self(images).exp()

    def _log_probabilities(self, images: Tensor) -> Tensor:
        return self.classifier(self.normalize(images)).float().log_softmax(dim=-1)

    def extra_repr(self) -> str:
        return f"rule={self.rule!r}"


def mean(log_p: Tensor, log_q: Tensor) -> Tensor:
    """log of (p + q) / 2."""
    return torch.logaddexp(log_p, log_q) - math.log(2)


def more_confident(log_p: Tensor, log_q: Tensor) -> Tensor:
    """log p or log q, whichever has the higher maximum; log q where they tie."""
    return torch.where(confidence(log_p) <= confidence(log_q), log_q, log_p)


def less_entropic(log_p: Tensor, log_q: Tensor) -> Tensor:
    """log p or log q, whichever has the lower entropy; log q where they tie."""
    return torch.where(entropy(log_p) >= entropy(log_q), log_q, log_p)


def confidence_mean(log_p: Tensor, log_q: Tensor) -> Tensor:
    """log of the mean of p and q, each weighted by its own maximum."""
    return weighted_mean(log_p, log_q, confidence(log_p), confidence(log_q))


def entropy_mean(log_p: Tensor, log_q: Tensor) -> Tensor:
    """log of the mean of p and q, each weighted by the other's entropy."""
    # An entropy of 0 has no logarithm; at the smallest float a pair of them weighs alike.
    smallest = torch.finfo(log_p.dtype).tiny
    weights = (entropy(log).clamp(min=smallest).log() for log in (log_q, log_p))
    return weighted_mean(log_p, log_q, *weights)


def weighted_mean(log_p: Tensor, log_q: Tensor, log_w: Tensor, log_v: Tensor) -> Tensor:
    """log of (w p + v q) / (w + v), of the logarithms (B, K) and (B, 1)."""
    return torch.logaddexp(log_p + log_w, log_q + log_v) - torch.logaddexp(log_w, log_v)


def confidence(log_p: Tensor) -> Tensor:
    """log of the largest probability: (B, K) to (B, 1)."""
    return log_p.amax(dim=-1, keepdim=True)


def entropy(log_p: Tensor) -> Tensor:
    """Entropy in nats, (B, K) to (B, 1); a probability of 0 adds 0."""
    finite = log_p.clamp(min=torch.finfo(log_p.dtype).min)
    return -(finite.exp() * finite).sum(dim=-1, keepdim=True)


#: What joins log p and log q, (B, K) each, to the log-probabilities (B, K) of the self-ensemble.
RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean,
    "confidence": more_confident,
    "entropy": less_entropic,
    "confidence_mean": confidence_mean,
    "entropy_mean": entropy_mean,
}
