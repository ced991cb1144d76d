"""What a network makes of images over time: for pictures, and to look at a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..arguments import as_integer, check_instance
from ..without_waiting import send
from .denoiser import Denoiser
from .functional import diffuse, to_signed, to_unit


def views_over_time(
    denoiser: Denoiser, images: Tensor, timesteps: Sequence[int], seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Diffused and denoised images at each timestep, each (T, B, C, H, W) in [0, 1], one noise for all timesteps.

    Args:
        denoiser: brings the network.
        images: float32 (B, C, H, W) in [0, 1].
        timesteps: T of them.
        seed: of the noise.
    """
    check_instance("denoiser", denoiser, Denoiser)
    seed = as_integer("seed", seed, 0)
    generator = torch.Generator().manual_seed(seed)
    noise = send(torch.randn(images.shape, generator=generator), images.device).repeat(len(timesteps), 1, 1, 1)
    denoiser.network.schedule.check_timesteps(timesteps)
    t = send(torch.tensor(timesteps).repeat_interleave(len(images)), images.device)
    repeated = images.repeat(len(timesteps), 1, 1, 1)
    denoised = denoiser(repeated, t, noise)
    schedule = denoiser.network.schedule.to(images.device)
    diffused = to_unit(diffuse(to_signed(repeated), t, noise, schedule)).clamp(0, 1)
    shape = (len(timesteps), len(images))
    return diffused.unflatten(0, shape), denoised.unflatten(0, shape)
