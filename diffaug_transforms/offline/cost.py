"""What a run will cost, said before it starts: for pictures that are far larger than the network's."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path

import PIL.Image
import torch

from ..arguments import counted
from ..pictures import check_sides
from ..transforms import DiffAug, Purify
from .copies import Augment, Prepare

#: Pictures with more than so many times the pixels of the network's are far larger.
FAR_LARGER = 4
#: So many pictures are looked at.
SAMPLE = 8


def describe_cost(
    augment: Augment,
    pictures: Sequence[Path | bytes],
    copies: int,
    prepare: Prepare,
    device: torch.device,
) -> str | None:
    """How long copies will take, and what to pass.

    None for DeepAugment, for a network of any size, and if the pictures are not far larger.

    Args:
        pictures: files, or their bytes. The headers of some are read.
        copies: how many copies will be made.
    """
    if not isinstance(augment, (DiffAug, Purify)) or not pictures:
        return None
    some = pictures[:: max(1, len(pictures) // SAMPLE)][:SAMPLE]
    sizes = [size for size in (prepared_pixels(picture, prepare) for picture in some) if size]
    if not sizes:
        return None
    size = augment.network.image_size
    if size is None:
        return None
    pixels = sum(sizes) / len(sizes)
    times = pixels / size**2
    if times <= FAR_LARGER:
        return None
    small = copies * seconds_a_call(augment, size, device)
    return (
        f"the pictures have about {times:,.0f} times as many pixels as the network's {size} x {size}: "
        f"{counted(copies, 'network call')} of that size would take about {duration(times * small)}. "
        f"--resize {size} --crop {size} would take about {duration(small)}"
    )


def prepared_pixels(file: Path | bytes, prepare: Prepare) -> int:
    """How many pixels a picture has after ``prepare``, by what its file declares. 0 if that is not known."""
    width, height = prepared_size(file, prepare) or (0, 0)
    return width * height


def prepared_size(file: Path | bytes, prepare: Prepare) -> tuple[int, int] | None:
    """The two sides of a picture after ``prepare``, by what its file declares. None if they are not known."""
    try:
        with PIL.Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as picture:  # reads the header only
            width, height = picture.size
            if prepare is not None:
                check_sides(picture)
                width, height = prepare(PIL.Image.new("RGB", picture.size)).size
            return width, height
    except Exception:  # the picture is skipped where it is read
        return None


def seconds_a_call(augment: DiffAug | Purify, size: int, device: torch.device) -> float:
    """The time of a network call for one image of the network's own size."""
    image = torch.full((1, augment.network.in_channels, size, size), 0.5, device=device)
    steps = torch.tensor([augment.network.num_timesteps // 2], device=device)
    labels = None if augment.network.num_classes is None or augment.network.null_class is not None else steps * 0
    taken = []
    for _ in range(3):  # the first one loads and plans
        start = time.perf_counter()
        augment.denoiser(image, steps, torch.zeros_like(image), labels).cpu()
        taken.append(time.perf_counter() - start)
    return min(taken)


def duration(seconds: float) -> str:
    """A time for people: "40 seconds", "3 minutes", "5 hours", "12 days"."""
    units = {"days": 86400, "hours": 3600, "minutes": 60}
    unit = next((name for name, length in units.items() if seconds >= 2 * length), "seconds")
    return f"{max(1, round(seconds / units.get(unit, 1))):,} {unit}"
