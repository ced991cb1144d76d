"""Timesteps for other image sizes and other schedules: the paper's, matched by what their noise does to an image."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from .schedule import NoiseSchedule

#: The paper's network: timesteps without a size of their own are meant for images of 256 pixels and this schedule.
REFERENCE_IMAGE_SIZE = 256
AUGMENT_TIMESTEPS = range(1000)
ENSEMBLE_TIMESTEPS = range(0, 451, 50)


def match_timesteps(
    timesteps: Iterable[int],
    schedule: NoiseSchedule,
    image_size: int,
    reference_schedule: NoiseSchedule | None = None,
    reference_size: int = REFERENCE_IMAGE_SIZE,
) -> tuple[int, ...]:
    """The timesteps that do to ``image_size`` pixels what ``timesteps`` do to ``reference_size`` pixels.

    Averaged over an area, noise of sigma at side d does what sigma * reference / d does at the reference's side
    (Hoogeboom et al. 2023, "simple diffusion", sec. 3.1). So each sigma is multiplied by image_size / reference_size
    and the nearest timestep of ``schedule`` is taken. Repeats are kept: they weigh in a uniform draw.

    Args:
        timesteps: in 0...T-1 of the reference schedule.
        schedule: the schedule of the network that will be used.
        image_size: side of its images in pixels.
        reference_schedule: default linear, 1000 steps: the paper's.
        reference_size: default 256 pixels: the paper's.

    Example:
        >>> match_timesteps(range(0, 451, 50), NoiseSchedule.named("linear"), 32)
        (0, 3, 9, 16, 23, 33, 44, 57, 74, 96)
    """
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1 pixel. Got {image_size}")
    reference = reference_schedule or NoiseSchedule.named("linear", 1000)
    steps = list(timesteps)
    reference.check_timesteps(steps)
    if not steps:
        return ()
    target = reference.sigmas.cpu()[steps].double() * (image_size / reference_size)
    sigmas = schedule.sigmas.cpu().double()
    above = torch.searchsorted(sigmas, target).clamp(1, len(sigmas) - 1) if len(sigmas) > 1 else target.long() * 0
    below = (above - 1).clamp(min=0)
    nearest = torch.where(target - sigmas[below] < sigmas[above] - target, below, above)
    return tuple(nearest.tolist())
