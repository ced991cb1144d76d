"""What a score network for photos of any size is trained on: random crops at random scales, and mostly little noise."""

from __future__ import annotations

import math
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torchvision.transforms import v2

from diffaug_transforms.score import NoiseSchedule

TIMESTEPS = 1000
#: From the photo's size to the crop's: half of the crops keep the photo's own scale, the others are resized by a factor
#: between these.
SCALES = (0.4, 1.33)
#: Half of the timesteps are drawn below this one. There the photo's details are in question.
LITTLE_NOISE = 200


class RandomScaleCrop(v2.Transform):
    """A square crop at a random place and scale, mirrored half of the time. Smaller photos are enlarged to the size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        width, height = flat_inputs[0].size
        keep, where, top, left, mirror = torch.rand(5).tolist()
        scale = 1.0 if keep < 0.5 else SCALES[0] * (SCALES[1] / SCALES[0]) ** where
        side = min(round(self.size / scale), width, height)
        box = left * (width - side), top * (height - side)
        return {"box": (*map(int, box), side), "mirror": mirror < 0.5}

    def transform(self, image: PIL.Image.Image, params: dict[str, Any]) -> PIL.Image.Image:
        left, top, side = params["box"]
        box = (left, top, left + side, top + side)
        crop = image.resize((self.size, self.size), PIL.Image.Resampling.BICUBIC, box)
        return crop.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT) if params["mirror"] else crop


def draw_uniform_timesteps(number: int, generator: torch.Generator, end: int = TIMESTEPS) -> Tensor:
    """int64 (number,), each uniform in 0...end-1, and one in each stratum.

    The loss depends strongly on t, so strata make its gradient much less noisy.
    """
    strata = torch.arange(number, device=generator.device)
    strata = strata + torch.rand(number, generator=generator, device=generator.device)
    return (strata / number * end).long().clamp(max=end - 1)


def draw_photo_timesteps(number: int, generator: torch.Generator) -> Tensor:
    """int64 (number,): half uniform over 0...T-1, half below ``LITTLE_NOISE``."""
    everywhere = draw_uniform_timesteps(number - number // 2, generator)
    return torch.cat([everywhere, draw_uniform_timesteps(number // 2, generator, LITTLE_NOISE)])


def photo_loss_weights(schedule: NoiseSchedule) -> Tensor:
    """(T,): the weight of the noise's squared error, sqrt(sigma_t / 0.3), between 0.3 and 3.

    The error falls about as 1 / sigma_t. The root evens out the decibels that are gained over t.
    """
    return (schedule.sigmas / 0.3).sqrt().clamp(0.3, 3.0)


def repeat_by_shares(lengths: list[int], shares: list[float]) -> list[int]:
    """How often an epoch shows each source, so that sources take these shares of it. Each is shown at least once.

    Args:
        lengths: the number of images of each source.
        shares: positive, of any sum.
    """
    if len(shares) != len(lengths) or not all(math.isfinite(share) and share > 0 for share in shares):
        raise ValueError(f"shares must be a positive number for each of {len(lengths)} sources. Got {shares}")
    shown = [share / length for share, length in zip(shares, lengths)]
    return [max(1, round(rate / min(shown))) for rate in shown]
