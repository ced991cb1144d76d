"""The guide for ``score.sampling.sample`` that a classifier of noisy images gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_number, check_classifier, check_instance
from ..labels import as_labels, check_labels, class_names_in
from ..score import NoiseSchedule
from ..score.functional import ReverseStep, scales
from ..score.sampling import Guide, Predict
from ..without_waiting import send


def classifier_guide(
    classifier: Callable[[Tensor, Tensor], Tensor],
    labels: Tensor | Sequence[int],
    guidance_scale: float = 1.0,
    *,
    schedule: NoiseSchedule,
) -> Guide:
    """A guide towards ``labels`` for both methods of ``sample``, from the gradient g of log p(label | x_t, t) by x_t.

    The formulas are Dhariwal & Nichol's (NeurIPS 2021, arXiv 2105.05233; ``condition_mean`` and ``condition_score`` in
    gaussian_diffusion.py of guided-diffusion). abar is alphas_cumprod at the network's own timesteps.

        ancestral (alg. 1) uses the mean:  mean <- mean + variance * guidance_scale * g
        DDIM (alg. 2) uses pred_x0:        eps <- eps - sqrt(1 - abar) * guidance_scale * g

    eps is the noise that the clipped pred_x0 leaves in x_t. The new eps gives the new pred_x0, which is not clipped
    again. With the exact p(y | x_t), the DDIM formula gives the exact conditional step, and the ancestral formula its
    Taylor expansion.

    Args:
        classifier: takes x_t (B, C, H, W) and the network's timesteps int64 (B,), returns logits (B, K). It must be in
            eval mode, so that images do not depend on each other.
        labels: (B,) in 0...K-1, one for each image of the sampled batch.
        guidance_scale: factor on the gradient. 1 is Bayes' rule. guided-diffusion calls it classifier_scale.
        schedule: the score network's, on its device.

    Raises:
        ValueError: labels or guidance_scale are not as described, or, at the first step, labels do not fit the batch or
            the classifier.

    Example:
        >>> network = load_score_network("cifar10")
        >>> head = torch.nn.Linear(3 * 32 * 32, 10)
        >>> guide = classifier_guide(lambda x_t, t: head(x_t.flatten(1)), [3, 8], schedule=network.schedule)
        >>> sample(network, torch.randn(2, 3, 32, 32), (0, 500, 999), guide=guide).shape
        torch.Size([2, 3, 32, 32])
    """
    check_classifier(classifier)
    check_instance("schedule", schedule, NoiseSchedule)
    guidance_scale = as_number("guidance_scale", guidance_scale)
    # How many images there are is known at the first step.
    index = as_labels(labels, number_of(labels), "cpu", class_names=class_names_in(classifier))

    def guide(x_t: Tensor, timesteps: Tensor, predict: Predict) -> ReverseStep:
        shift = guidance_scale * log_probability_gradient(classifier, x_t, timesteps, index)
        with torch.no_grad():
            pred_x0, mean, log_variance = predict(x_t)
            signal_scale, noise_scale = scales(timesteps, schedule, x_t.ndim)
            # x_t = signal_scale pred_x0 + noise_scale eps, before and after eps is shifted by -noise_scale * shift.
            pred_x0 = pred_x0 + noise_scale**2 / signal_scale * shift
            return ReverseStep(pred_x0, mean + log_variance.exp() * shift, log_variance)

    return guide


def number_of(labels: Any) -> int:
    """How many labels there are. 0 for what is none, which ``as_labels`` refuses."""
    try:
        return torch.as_tensor(labels).numel()
    except (TypeError, ValueError, RuntimeError):
        return 0


def log_probability_gradient(
    classifier: Callable[[Tensor, Tensor], Tensor], x_t: Tensor, timesteps: Tensor, labels: Tensor
) -> Tensor:
    """The gradient of log p(label | x_t, t) by each x_t, float32 (B, C, H, W). No other tensor gets a gradient.

    ``labels`` are int64 (B,) on the CPU, so that checking them does not wait for the device.
    """
    index = as_labels(labels, len(x_t), "cpu")
    # Tensors made in inference mode have no gradients, so their clones are made outside of it.
    with torch.inference_mode(False), torch.enable_grad():
        x_t = x_t.detach().clone().requires_grad_()
        logits = classifier(x_t, timesteps.clone())
        check_instance("what classifier returns", logits, Tensor)
        logits = logits.float()
        if not logits.requires_grad:
            raise ValueError("classifier must let gradients pass to x_t. Got none")
        if logits.ndim != 2 or len(logits) != len(x_t):
            raise ValueError(f"classifier must return logits ({len(x_t)}, K). Got shape {tuple(logits.shape)}")
        names = class_names_in(classifier)
        index = send(check_labels(index, logits.shape[1], class_names=names).clone(), x_t.device)[:, None]
        (gradient,) = torch.autograd.grad(logits.log_softmax(1).gather(1, index).sum(), x_t)
    return gradient.float()
