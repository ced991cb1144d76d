"""The guide that a classifier of noisy images makes for ``score.sampling.sample``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..score import NoiseSchedule
from ..score.functional import ReverseStep, scales
from ..score.sampling import Guide, Predict


def classifier_guide(
    classifier: Callable[[Tensor, Tensor], Tensor],
    labels: Tensor | Sequence[int],
    guidance_scale: float = 1.0,
    *,
    schedule: NoiseSchedule,
) -> Guide:
    """A guide towards ``labels`` by the gradient g of log p(label | x_t, t) by x_t, for both methods of ``sample``.

    Both formulas are Dhariwal & Nichol's (NeurIPS 2021, arXiv 2105.05233; ``condition_mean`` and ``condition_score`` in
    guided-diffusion's gaussian_diffusion.py), with abar the alphas_cumprod at the network's own timesteps:

        ancestral (alg. 1), which reads the mean:  mean <- mean + variance * guidance_scale * g
        DDIM (alg. 2), which reads pred_x0:        eps <- eps - sqrt(1 - abar) * guidance_scale * g

    where eps is the noise that the clipped pred_x0 leaves in x_t; the new eps gives the new pred_x0, not clipped again.
    With the exact p(y | x_t), DDIM's is the exact conditional step, and the ancestral one its Taylor expansion.

    Args:
        classifier: called with x_t (B, C, H, W) and the network's timesteps int64 (B,), gives logits (B, K), each
            image for itself: in eval mode.
        labels: (B,) in 0...K-1, one per image of the batch that is sampled.
        guidance_scale: factor on the gradient; 1: Bayes' rule. guided-diffusion's classifier_scale.
        schedule: the score network's, on its device.

    Raises:
        ValueError: labels or guidance_scale not as above; labels that do not fit batch or classifier at the first step.

    Example:
        >>> network = load_score_network("cifar10")
        >>> head = torch.nn.Linear(3 * 32 * 32, 10)
        >>> guide = classifier_guide(lambda x_t, t: head(x_t.flatten(1)), [3, 8], schedule=network.schedule)
        >>> sample(network, torch.randn(2, 3, 32, 32), (0, 500, 999), guide=guide).shape
        torch.Size([2, 3, 32, 32])
    """
    index = _as_index(labels)
    if not math.isfinite(guidance_scale):
        raise ValueError(f"guidance_scale must be finite. Got {guidance_scale}")

    def guide(x_t: Tensor, timesteps: Tensor, predict: Predict) -> ReverseStep:
        shift = guidance_scale * log_probability_gradient(classifier, x_t, timesteps, index)
        with torch.no_grad():
            pred_x0, mean, log_variance = predict(x_t)
            signal_scale, noise_scale = scales(timesteps, schedule, x_t.ndim)
            # x_t = signal_scale pred_x0 + noise_scale eps, before and after eps is shifted by -noise_scale * shift.
            pred_x0 = pred_x0 + noise_scale**2 / signal_scale * shift
            return ReverseStep(pred_x0, mean + log_variance.exp() * shift, log_variance)

    return guide


def log_probability_gradient(
    classifier: Callable[[Tensor, Tensor], Tensor], x_t: Tensor, timesteps: Tensor, labels: Tensor
) -> Tensor:
    """The gradient of log p(label | x_t, t) by each x_t, float32 (B, C, H, W). Leaves no other.

    Args:
        classifier, x_t, timesteps: as in ``classifier_guide``.
        labels: int64 (B,), on the CPU, so that checking them waits for no device.
    """
    if len(labels) != len(x_t):
        raise ValueError(f"labels must be one per image. Got {len(labels)} for {len(x_t)} images")
    # Gradients cannot be had of tensors made in inference mode, hence the clones outside of it.
    with torch.inference_mode(False), torch.enable_grad():
        x_t = x_t.detach().clone().requires_grad_()
        logits = classifier(x_t, timesteps.clone()).float()
        if not logits.requires_grad:
            raise ValueError("classifier must let gradients pass to x_t. Got none")
        if len(labels) and int(labels.max()) >= logits.shape[1]:
            raise ValueError(f"labels must be in 0...{logits.shape[1] - 1}. Got {int(labels.max())}")
        index = labels.clone().to(x_t.device)[:, None]
        (gradient,) = torch.autograd.grad(logits.log_softmax(1).gather(1, index).sum(), x_t)
    return gradient.float()


def _as_index(labels: Tensor | Sequence[int]) -> Tensor:
    if labels is None:
        raise ValueError("labels must be one per image. Got None")
    index = torch.as_tensor(labels)
    if index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(f"labels must be integer classes. Got {index.dtype}")
    index = index.to("cpu", torch.int64).reshape(-1)
    if len(index) and int(index.min()) < 0:
        raise ValueError(f"labels must be at least 0. Got {int(index.min())}")
    return index
