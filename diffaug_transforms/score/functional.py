"""The pure functions under everything: ranges, diffusion, one denoising step. Noise is always passed in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .schedule import NoiseSchedule

if TYPE_CHECKING:
    from .network import ScoreNetwork

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "score")
VARIANCE_TYPES = ("fixed_small", "fixed_large", "learned_range")


def to_signed(image: Tensor) -> Tensor:
    """[0, 1] to [-1, 1]."""
    return image * 2 - 1


def to_unit(x_0: Tensor) -> Tensor:
    """[-1, 1] to [0, 1]."""
    return (x_0 + 1) / 2


def diffuse(x_0: Tensor, timesteps: Tensor, noise: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The forward process, x_t = signal_scale_t x_0 + noise_scale_t noise.

    That is sqrt(alphas_cumprod_t) x_0 + sqrt(1 - alphas_cumprod_t) noise (Ho et al. 2020, eq. 4); with a
    variance-exploding schedule x_0 + sigmas_t noise (Song et al. 2021, appendix C).

    Args:
        x_0: (B, C, H, W) in [-1, 1].
        timesteps: int64 (B,) in 0...T-1.
        noise: like x_0, standard normal.
        schedule: the network's, on the device of x_0.

    Example:
        >>> schedule = NoiseSchedule.named("linear")
        >>> x_0 = torch.zeros(2, 3, 8, 8)
        >>> diffuse(x_0, torch.tensor([0, 999]), torch.ones_like(x_0), schedule).amax((1, 2, 3))
        tensor([0.0100, 1.0000])
    """
    signal_scale, noise_scale = schedule.scales(timesteps, x_0.ndim)
    return signal_scale * x_0 + noise_scale * noise


def prediction_to_x0(
    prediction: Tensor, x_t: Tensor, timesteps: Tensor, schedule: NoiseSchedule, prediction_type: str
) -> Tensor:
    """The denoised image, not clipped, from what a network predicts: see ``prediction_to_eps``."""
    signal_scale, noise_scale = schedule.scales(timesteps, x_t.ndim)
    if prediction_type == "epsilon":
        return (x_t - noise_scale * prediction) / signal_scale
    if prediction_type == "score":
        return (x_t + noise_scale**2 * prediction) / signal_scale
    if prediction_type == "v_prediction":
        return (signal_scale * x_t - noise_scale * prediction) / (signal_scale**2 + noise_scale**2)
    return prediction


def prediction_to_eps(
    prediction: Tensor, x_t: Tensor, timesteps: Tensor, schedule: NoiseSchedule, prediction_type: str
) -> Tensor:
    """The predicted noise, from what a network predicts.

    That is the noise, v = signal_scale noise - noise_scale x_0 (Salimans & Ho 2022), the score
    -noise / noise_scale (Song et al. 2021), or x_0.
    """
    signal_scale, noise_scale = schedule.scales(timesteps, x_t.ndim)
    if prediction_type == "epsilon":
        return prediction
    if prediction_type == "score":
        return -noise_scale * prediction
    if prediction_type == "v_prediction":
        return (signal_scale * prediction + noise_scale * x_t) / (signal_scale**2 + noise_scale**2)
    return (x_t - signal_scale * prediction) / noise_scale


def posterior_mean(x_0: Tensor, x_t: Tensor, timesteps: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The mean of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 7; Song et al. 2021, eq. 47)."""
    weight_x_0, weight_x_t = (schedule.gather(w, timesteps) for w in (schedule.posterior_x_0, schedule.posterior_x_t))
    return weight_x_0 * x_0 + weight_x_t * x_t


def posterior_log_variance(learned: Tensor, timesteps: Tensor, schedule: NoiseSchedule, variance_type: str) -> Tensor:
    """Log-variance of p(x_{t-1} | x_t): one of its two ends (Ho et al. 2020, sec. 3.2), or learned between them.

    ``learned`` (B, C, H, W) in about [-1, 1] is only read for "learned_range" (Nichol & Dhariwal 2021, eq. 15).
    """
    small = schedule.gather(schedule.posterior_log_variance, timesteps)
    if variance_type == "fixed_small":
        return small
    if variance_type == "fixed_large":
        return schedule.gather(schedule.fixed_large_log_variance, timesteps)
    share = (learned + 1) / 2
    return share * schedule.gather(schedule.log_betas, timesteps) + (1 - share) * small


class ReverseStep(NamedTuple):
    """One step back, each (B, C, H, W): clipped pred_x0, and mean and log-variance of p(x_{t-1} | x_t)."""

    pred_x0: Tensor
    mean: Tensor
    log_variance: Tensor


def reverse_step(
    prediction: Tensor,
    learned: Tensor,
    x_t: Tensor,
    timesteps: Tensor,
    schedule: NoiseSchedule,
    prediction_type: str,
    variance_type: str,
) -> ReverseStep:
    """One step back over ``schedule`` from ``ScoreNetwork.predict``'s answer (Ho et al. 2020, alg. 2, of clipped x_0).

    ``timesteps`` (B,) are places in the schedule, which may be a respaced one.
    """
    x_0 = prediction_to_x0(prediction, x_t, timesteps, schedule, prediction_type).clamp(-1, 1)
    mean = posterior_mean(x_0, x_t, timesteps, schedule)
    log_variance = posterior_log_variance(learned, timesteps, schedule, variance_type)
    return ReverseStep(x_0, mean, log_variance.expand_as(mean))


def diffuse_and_denoise(
    images: Tensor, timesteps: Tensor, noise: Tensor, network: ScoreNetwork, labels: Tensor | None = None
) -> Tensor:
    """DiffAug itself (paper, eq. 5): diffuse to ``timesteps``, take one reverse step, return images in [0, 1].

    Args:
        images: (B, C, H, W) in [0, 1].
        timesteps: int64 (B,) in 0...T-1.
        noise: like images, standard normal.
        network: the score network, on the images' device.
        labels: int64 (B,) for a conditional network, else None.

    Sides that the network's strides don't divide are reflect-padded before the network and cropped after it.
    """
    height, width = images.shape[-2:]
    x_t = diffuse(to_signed(images), timesteps, noise, network.schedule)
    x_t = reflect_pad_to_multiple(x_t, network.stride)
    return to_unit(network.pred_x0(x_t, timesteps, labels)[..., :height, :width])


def reflect_pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Pad right and bottom by reflection until ``multiple`` divides both sides, however small the image."""
    for dim in (-2, -1):
        size = images.shape[dim]
        if size % multiple:
            padded = torch.arange(-(-size // multiple) * multiple, device=images.device)
            period = max(2 * (size - 1), 1)
            folded = padded % period
            images = images.index_select(dim, torch.minimum(folded, period - folded).clamp(max=size - 1))
    return images
