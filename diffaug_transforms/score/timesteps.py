"""Which timesteps: the defaults, matched to the size of images, and those that a sampler visits."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cache

from ..arguments import as_integer, as_timesteps, check_choice, check_instance
from .schedule import AUGMENT_TIMESTEPS, ENSEMBLE_TIMESTEPS, NoiseSchedule

#: The paper's network is made for images of 256 pixels and for the linear schedule of 1000 steps.
REFERENCE_IMAGE_SIZE = 256
#: The paper gives its network crops of 224 pixels.
PAPER_SIZE = 224
TIMESTEP_SPACINGS = ("linspace", "leading")


def match_timesteps(
    timesteps: Iterable[int],
    schedule: NoiseSchedule,
    image_size: int | None,
    reference_schedule: NoiseSchedule | None = None,
    reference_size: int = REFERENCE_IMAGE_SIZE,
) -> tuple[int, ...]:
    """The timesteps that do to ``image_size`` pixels what ``timesteps`` do to ``reference_size`` pixels.

    Averaged over an area, noise of sigma at side d does what sigma * reference / d does at the reference's side
    (Hoogeboom et al. 2023, "simple diffusion", sec. 3.1). So each sigma is multiplied by image_size / reference_size,
    and the nearest timestep of ``schedule`` is taken. Repeats stay: they weigh in a uniform draw.

    Args:
        timesteps: in 0...T-1 of the reference schedule.
        schedule: the schedule of the network that will be used.
        image_size: side of its images in pixels, at least 1. None: the reference's, so that only schedules differ.
        reference_schedule: default: linear with 1000 steps, the paper's.
        reference_size: default: 256 pixels, the paper's.

    Example:
        >>> match_timesteps(range(0, 451, 50), NoiseSchedule.named("linear"), 32)
        (0, 3, 9, 16, 23, 33, 44, 57, 74, 96)
    """
    reference_size = as_integer("reference_size", reference_size, 1)
    image_size = reference_size if image_size is None else as_integer("image_size", image_size, 1)
    reference = paper_schedule() if reference_schedule is None else reference_schedule
    check_instance("timesteps", timesteps, Iterable)
    check_instance("schedule", schedule, NoiseSchedule)
    check_instance("reference_schedule", reference, NoiseSchedule)
    if isinstance(timesteps, Sequence) and not len(timesteps):
        return ()
    steps = as_timesteps(timesteps) or ()
    reference.check_timesteps(steps)
    scale = image_size / reference_size
    return tuple(nearest_timestep(schedule.host_sigmas, reference.host_sigmas[t] * scale) for t in steps)


def nearest_timestep(sigmas: Sequence[float], sigma: float) -> int:
    """The index of the nearest of the ascending sigmas; of two equally near ones the upper."""
    above = min(max(bisect_left(sigmas, sigma), 1), len(sigmas) - 1)
    below = max(above - 1, 0)
    return below if sigma - sigmas[below] < sigmas[above] - sigma else above


@cache
def paper_schedule() -> NoiseSchedule:
    """The schedule of the paper's network, for which its timesteps are meant."""
    return NoiseSchedule.named("linear", 1000)


def matching_size(image_size: int | None, shape: Sequence[int]) -> int | None:
    """The side to which timesteps are matched for images of a shape (..., H, W): the network's own ``image_size``.

    A network for images of any size has none. Then it is the images' shorter side. From ``PAPER_SIZE`` on it is None,
    and the paper's timesteps hold as they are.
    """
    side = min(shape[-2:])
    return image_size if image_size is not None else side if side < PAPER_SIZE else None


def augment_timesteps(schedule: NoiseSchedule, image_size: int | None) -> tuple[int, ...]:
    """DiffAug's default draw: the paper's 0...999, matched to a size (see ``match_timesteps``) and a schedule.

    Those that the network does not take are left out. If it takes none of them, the nearest one that it takes is left.
    """
    return within(schedule.timesteps, match_timesteps(AUGMENT_TIMESTEPS, schedule, image_size))


def ensemble_timesteps(schedule: NoiseSchedule, image_size: int | None) -> tuple[int, ...]:
    """The ensemble's default set: the paper's {0, 50, ..., 450}, matched as in ``augment_timesteps``.

    t = 0 is the raw image, which needs no network, so it stays.
    """
    matched = match_timesteps(ENSEMBLE_TIMESTEPS, schedule, image_size)
    return matched[:1] + within(schedule.timesteps, matched[1:])


def within(taken: range, timesteps: Sequence[int]) -> tuple[int, ...]:
    """The timesteps that lie in a range; if none does, the nearest of the range."""
    inside = tuple(t for t in timesteps if t in taken)
    return inside or (min(max(timesteps[-1], taken[0]), taken[-1]),)


def space_timesteps(num_timesteps: int, num_steps: int, timestep_spacing: str = "linspace") -> tuple[int, ...]:
    """``num_steps`` of the timesteps 0...T-1, ascending.

    Args:
        num_timesteps: T.
        num_steps: in 2...T. One step alone would be t = 0, where images made from noise cannot start. Pass ``(T - 1,)``
            to ``sample`` for a single step.
        timestep_spacing: diffusers' names. ``"linspace"``: evenly spaced, first and last included (guided-diffusion's
            respace.py). ``"leading"``: one integer stride from 0 on, DDIM's choice ("ddimN" in guided-diffusion).

    Raises:
        ValueError: a number out of range, another spacing, or a number that no integer stride gives.

    Example:
        >>> space_timesteps(1000, 5), space_timesteps(1000, 5, "leading")
        ((0, 250, 500, 749, 999), (0, 200, 400, 600, 800))
    """
    check_choice("timestep_spacing", timestep_spacing, TIMESTEP_SPACINGS)
    num_timesteps = as_integer("num_timesteps", num_timesteps, 1)
    num_steps = as_integer("num_steps", num_steps, min(2, num_timesteps), num_timesteps)
    if timestep_spacing == "linspace":
        stride = (num_timesteps - 1) / max(num_steps - 1, 1)
        # Added up as respace.py does: rounded, i * stride gives another step for 278 of the counts up to T = 1000.
        return tuple(round(step) for step in itertools.accumulate([0.0] + [stride] * (num_steps - 1)))
    steps = range(0, num_timesteps, -(-num_timesteps // num_steps))
    if len(steps) != num_steps:
        raise ValueError(f"num_steps must be a number of steps of equal stride over {num_timesteps}. Got {num_steps}")
    return tuple(steps)
