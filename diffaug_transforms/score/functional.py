"""The pure functions under everything: ranges, diffusion, prediction types, one reverse step, padding, parts.

    x_t = a x_0 + b noise        a = signal_scale[t], b = noise_scale[t]; x_0 in [-1, 1]

Noise is always passed in. No function here draws, checks or keeps anything, so all of them compile and export.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .schedule import NoiseSchedule

Factors = Callable[[Tensor, Tensor], tuple[Tensor | float, Tensor | float, Tensor | float]]


class PredictionType(NamedTuple):
    """How pred_x0 and eps follow from a prediction: (skip x_t + out prediction) / norm, each factor from (a, b)."""

    pred_x0: Factors
    eps: Factors


#: A network predicts the noise (Ho et al. 2020), v = a noise - b x_0 (Salimans & Ho 2022), x_0 itself, or the score
#: -noise / b (Song et al. 2021). The division comes last, because a and b may be small.
PREDICTION_TYPES = {
    "epsilon": PredictionType(lambda a, b: (1, -b, a), lambda a, b: (0, 1, 1)),
    "v_prediction": PredictionType(lambda a, b: (a, -b, a**2 + b**2), lambda a, b: (b, a, a**2 + b**2)),
    "sample": PredictionType(lambda a, b: (0, 1, 1), lambda a, b: (1, -a, b)),
    "score": PredictionType(lambda a, b: (1, b**2, a), lambda a, b: (0, -b, 1)),
}
VARIANCE_TYPES = ("fixed_small", "fixed_large", "learned_range")


def to_signed(image: Tensor) -> Tensor:
    """[0, 1] to [-1, 1]."""
    return image * 2 - 1


def to_unit(x_0: Tensor) -> Tensor:
    """[-1, 1] to [0, 1]."""
    return (x_0 + 1) / 2


def scales(timesteps: Tensor, schedule: NoiseSchedule, ndim: int = 4) -> tuple[Tensor, Tensor]:
    """a and b, the factors of x_0 and of the noise in x_t, at ``timesteps`` (B,): each (B, 1, 1, 1)."""
    shape = (-1, *[1] * (ndim - 1))
    return schedule.signal_scale[timesteps].reshape(shape), schedule.noise_scale[timesteps].reshape(shape)


def diffuse(x_0: Tensor, timesteps: Tensor, noise: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The forward process: x_t = signal_scale_t x_0 + noise_scale_t noise.

    That is sqrt(alphas_cumprod_t) x_0 + sqrt(1 - alphas_cumprod_t) noise (Ho et al. 2020, eq. 4). With a
    variance-exploding schedule it is x_0 + sigmas_t noise (Song et al. 2021, appendix C).

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
    signal_scale, noise_scale = scales(timesteps, schedule, x_0.ndim)
    return signal_scale * x_0 + noise_scale * noise


def prediction_to_x0(
    prediction: Tensor, x_t: Tensor, timesteps: Tensor, schedule: NoiseSchedule, prediction_type: str
) -> Tensor:
    """The denoised image, not clipped, from what a network predicts (see ``PREDICTION_TYPES``). (B, C, H, W)."""
    skip, out, norm = PREDICTION_TYPES[prediction_type].pred_x0(*scales(timesteps, schedule, x_t.ndim))
    return (skip * x_t + out * prediction) / norm


def prediction_to_eps(
    prediction: Tensor, x_t: Tensor, timesteps: Tensor, schedule: NoiseSchedule, prediction_type: str
) -> Tensor:
    """The predicted noise from what a network predicts (see ``PREDICTION_TYPES``). (B, C, H, W)."""
    skip, out, norm = PREDICTION_TYPES[prediction_type].eps(*scales(timesteps, schedule, x_t.ndim))
    return (skip * x_t + out * prediction) / norm


class ReverseStep(NamedTuple):
    """One step back, each (B, C, H, W): pred_x0, and mean and log-variance of p(x_{t-1} | x_t)."""

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
    clip: bool = True,
) -> ReverseStep:
    """One step back over ``schedule`` from what ``ScoreNetwork.predict`` gives (Ho et al. 2020, alg. 2).

    ``timesteps`` (B,) index the schedule, which may be a respaced one. pred_x0 is clipped to [-1, 1] if ``clip``.
    """
    x_0 = prediction_to_x0(prediction, x_t, timesteps, schedule, prediction_type)
    x_0 = x_0.clamp(-1, 1) if clip else x_0
    mean = posterior_mean(x_0, x_t, timesteps, schedule)
    log_variance = posterior_log_variance(learned, timesteps, schedule, variance_type)
    return ReverseStep(x_0, mean, log_variance.expand_as(mean))


def posterior_mean(x_0: Tensor, x_t: Tensor, timesteps: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The mean of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 7; Song et al. 2021, eq. 47)."""
    shape = (-1, *[1] * (x_t.ndim - 1))
    coef1, coef2 = schedule.posterior_mean_coef1[timesteps], schedule.posterior_mean_coef2[timesteps]
    return coef1.reshape(shape) * x_0 + coef2.reshape(shape) * x_t


def posterior_log_variance(learned: Tensor, timesteps: Tensor, schedule: NoiseSchedule, variance_type: str) -> Tensor:
    """Log-variance of p(x_{t-1} | x_t): fixed at one of its two ends (Ho et al. 2020, sec. 3.2), or learned.

    ``learned`` (B, C, H, W), about in [-1, 1], is read for "learned_range" only. It interpolates between the two ends
    (Nichol & Dhariwal 2021, eq. 15).
    """
    shape = (-1, *[1] * (learned.ndim - 1))
    small = schedule.posterior_log_variance[timesteps].reshape(shape)
    if variance_type == "fixed_small":
        return small
    if variance_type == "fixed_large":
        return schedule.fixed_large_log_variance[timesteps].reshape(shape)
    share = (learned + 1) / 2
    return share * schedule.log_betas[timesteps].reshape(shape) + (1 - share) * small


def reflect_pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Pad right and bottom by reflection until ``multiple`` divides both sides, however small the image is."""
    for dim in (-2, -1):
        size = images.shape[dim]
        if size % multiple:
            padded = torch.arange(-(-size // multiple) * multiple, device=images.device)
            period = max(2 * (size - 1), 1)
            folded = padded % period
            images = images.index_select(dim, torch.minimum(folded, period - folded).clamp(max=size - 1))
    return images


def in_equal_parts(core: Any, size: int, fill: bool, *batches: Tensor | None) -> Tensor:
    """``core`` over a batch in parts of one size, at most ``size``.

    The last part is smaller if the batch does not divide; with ``fill`` it is filled up with the first images, because
    a compiled core is compiled again for every new size.
    """
    number = len(batches[0])  # type: ignore[arg-type]
    parts = -(-number // size)
    size = -(-number // parts)
    missing = parts * size - number if fill else 0
    filled = [b if b is None or not missing else torch.cat([b, b[:missing]]) for b in batches]
    split = [[None] * parts if b is None else b.split(size) for b in filled]
    return torch.cat([core(*part) for part in zip(*split)])[:number]
