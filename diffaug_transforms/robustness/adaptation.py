"""DDA: take a shifted image back towards the network's data, holding on to its low frequencies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from ..arguments import (
    as_integer,
    as_number,
    as_optional_integer,
    check_choice,
    check_flags,
    check_generator,
    check_instance,
    check_tensor,
)
from ..deprecated import renamed_attribute
from ..images import check_channels, from_batch, to_batch
from ..score import Denoiser, ScoreNetwork, diffuse, match_timesteps, space_timesteps, to_signed, to_unit
from ..score.denoiser import as_denoiser
from ..score.functional import ReverseStep, reflect_pad_to_multiple
from ..score.sampling import Guide, Predict, draw_like, sample
from ..score.timesteps import PAPER_SIZE, matching_size
from ..without_waiting import LateChecks

#: The reference's start, step 50 of 100 respaced ones, as a timestep of the paper's network at 256 pixels.
START_TIMESTEP = 505
#: What phi's filter meets at the border of an image.
BORDERS = ("normalized", "zeros")


class DDA(nn.Module):
    """Diffusion-driven adaptation of test images (Gao et al., CVPR 2023, "Back to the Source", alg. 1).

    An image is diffused to ``start_timestep`` and sampled back over respaced steps. After each step
    x <- x - guidance_scale * gradient by x_t of || phi(image) - phi(pred_x0(x_t)) ||_2, through the U-Net and the
    clip. phi keeps low frequencies. Loop, order and constants are those of ``shiyegao/DDA``, with these differences:

    - The reference takes one norm over the whole batch, so its answer for an image depends on the others. Here the norm
      is taken per image, which is the reference's answer at batch 1.
    - The reference's phi pads images with zeros. They are grey, and pull the border towards grey. Here phi's filter is
      cut off at the border. phi(image) differs by 19 % of its norm at 32 pixels, and by 6 % at 256.
      ``border="zeros"`` is the reference's way.
    - The reference starts at 505 of 1000 for images of 256 pixels. Other sizes get a matched start.
    - The reference computes in float16. With ``dtype=None`` this class computes in bfloat16 if the device is fast at
      it. On eight images and 13 steps of the embedded network, bfloat16 changed pixels by 0.0004 on average and by up
      to 0.06. ``dtype=torch.float32`` avoids that, and took 1.5 times as long on a CPU with bfloat16.

    Args:
        network: as DiffAug's, or a Denoiser. Conditional networks need a null class.
        start_timestep: in 1...T-1, rounded to the nearest of the respaced steps. None: the reference's 505 of 1000 at
            256 pixels, matched to the network's size and schedule (131 for the embedded 32-pixel network). For a
            network of any size it is matched to the images' shorter side, and is the reference's from 224 pixels on.
        num_steps: respaced steps over all of 0...T-1. Only those below the start are taken.
        guidance_scale: at least 0; 6 in the reference.
        downscale: phi resizes by 1 / downscale and back, bicubic, antialiased; 4 in the reference.
        border: "normalized" cuts phi's filter off at the border, and its weights sum to 1 again. "zeros" pads with
            zeros, as the reference does; it needs sides that downscale divides.
        max_batch: largest batch that the network sees at once, each with draws of its own. None: the whole batch.
        dtype, compile, checkpointing: the Denoiser's, for a network that is not a Denoiser already.
        generator: source of the draws. None: torch's global one.
        progress: show a progress bar over the steps.

    Raises:
        ValueError, TypeError: an argument out of range or of another kind; images that are not as in ``forward``; a
            conditional network without null class.

    Example:
        >>> adapt = DDA("cifar10")
        >>> adapt(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """

    max_batch = renamed_attribute("DDA.max_batch", "denoiser.max_batch")
    checkpointing = renamed_attribute("DDA.checkpointing", "denoiser.checkpointing")

    def __init__(
        self,
        network: str | Path | ScoreNetwork | Denoiser = "cifar10",
        *,
        start_timestep: int | None = None,
        num_steps: int = 100,
        guidance_scale: float = 6.0,
        downscale: int = 4,
        border: str = "normalized",
        max_batch: int | None = None,
        dtype: torch.dtype | None = None,
        compile: bool | str = False,
        checkpointing: bool = False,
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        check_generator(generator)
        check_flags(progress=progress)
        self.start_timestep = as_optional_integer("start_timestep", start_timestep, 1)
        self.num_steps = as_integer("num_steps", num_steps, 2)
        self.guidance_scale = as_number("guidance_scale", guidance_scale, at_least=0)
        self.downscale = as_integer("downscale", downscale, 1)
        check_choice("border", border, BORDERS)
        self.border = border
        self.generator = generator
        self.progress = progress
        self._late_checks = LateChecks()
        options: dict[str, Any] = {"max_batch": max_batch, "dtype": dtype, "compile": compile}
        if not isinstance(network, Denoiser):
            options["differentiable"] = True
        self.denoiser = as_denoiser(network, checkpointing=checkpointing, **options)
        if isinstance(network, ScoreNetwork):
            network.schedule.check_timesteps([self.start_timestep] if self.start_timestep else [])

    @property
    def network(self) -> ScoreNetwork:
        """The score network, for its schedule and sizes. Loads it if it was not."""
        return self.denoiser.network

    @property
    def timesteps(self) -> tuple[int, ...]:
        """``timesteps_for`` images of the network's own size; 224 pixels or more if it has none."""
        return self.timesteps_for((PAPER_SIZE, PAPER_SIZE))

    def timesteps_for(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The respaced timesteps that are taken, ascending; the last one is the start, which needs no network call.

        ValueError for timesteps that the network does not take.

        Args:
            shape: of the images, (..., H, W). It matters only for a network without a size of its own.
        """
        schedule, size = self.network.schedule, matching_size(self.network.image_size, shape)
        start = self.start_timestep
        if start is None:
            (start,) = match_timesteps([START_TIMESTEP], schedule, size)
        schedule.check_timesteps([start])
        steps = space_timesteps(schedule.num_timesteps, self.num_steps)
        nearest = min(range(1, len(steps)), key=lambda index: abs(steps[index] - start))
        schedule.check_timesteps(steps[: nearest + 1])
        return steps[: nearest + 1]

    def forward(self, images: Tensor) -> Tensor:
        """Adapted images in the shape, dtype and range of ``images``: uint8, or float in [0, 1], (B, C, H, W)."""
        batch = to_batch(images, self._late_checks)
        if not len(batch):
            return images
        adapted = torch.cat([self.adapt(part) for part in batch.split(self.denoiser.max_batch or len(batch))])
        return cast(Tensor, from_batch(adapted, images))

    def adapt(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """All images at once, float32 (B, C, H, W) in [0, 1], deterministic for given noise.

        Args:
            images: float32 (B, C, H, W) in [0, 1].
            noise: (len(timesteps) - 1, B, C, H', W'), standard normal: the first diffuses, the others are the steps',
                in their order. H' and W' are H and W padded to the network's strides. None: drawn.
        """
        check_tensor("images", images, (torch.float32,), "float32 (B, C, H, W) in [0, 1]")
        check_instance("noise", noise, (Tensor, type(None)))
        # Gradients cannot be had of tensors made in inference mode, hence the clone outside of it.
        # No autocast either: it would reach the backward pass of the guide.
        no_autocast = torch.autocast(images.device.type, enabled=False)
        with torch.inference_mode(False), torch.no_grad(), no_autocast:
            network = self.denoiser.ready(images.device)
            check_channels(images, network.in_channels)
            self.denoiser.warn_of_size(images, stacklevel=3)
            *steps, start = self.timesteps_for(images.shape)
            reference = reflect_pad_to_multiple(to_signed(images.clone()), network.stride)
            wanted = (len(steps), *reference.shape)
            if noise is not None and (noise.shape[1:] != reference.shape or len(noise) < len(steps)):
                raise ValueError(f"noise must have the shape {wanted}. Got {tuple(noise.shape)}")
            draws = iter(noise.clone()) if noise is not None else draw_like(reference, self.generator)
            t = torch.full((len(images),), start, device=images.device)
            x_t = diffuse(reference, t, next(draws), network.schedule)
            guide = low_pass_guide(reference, self.guidance_scale, self.downscale, self.border)
            x_0 = sample(network, x_t, steps, guide=guide, noise=draws, progress=self.progress)
            height, width = images.shape[-2:]
            return to_unit(x_0[..., :height, :width]).clamp(0, 1)

    def extra_repr(self) -> str:
        start = "matched" if self.start_timestep is None else self.start_timestep
        numbers = f"start_timestep={start}, num_steps={self.num_steps}, guidance_scale={self.guidance_scale}"
        return f"{numbers}, downscale={self.downscale}, border={self.border!r}"


def low_pass(images: Tensor, downscale: int, border: str = "normalized") -> Tensor:
    """Down by ``downscale`` and up again, bicubic with antialiasing both ways: DDA's phi. (B, C, H, W)."""
    height, width = images.shape[-2:]
    if border == "normalized":
        return bicubic(bicubic(images, max(height // downscale, 1), max(width // downscale, 1)), height, width)
    if height % downscale or width % downscale:
        raise ValueError(f"sides must be multiples of downscale, {downscale}, if border='zeros'. Got {height}x{width}")
    # Zeros are needed as far as the cubic filter reaches: 2 pixels of the small image.
    height, width, margin = height // downscale + 4, width // downscale + 4, 2 * downscale
    small = bicubic(pad(images, [margin] * 4), height, width)[..., 2:-2, 2:-2]
    return bicubic(pad(small, [2] * 4), downscale * height, downscale * width)[..., margin:-margin, margin:-margin]


def bicubic(images: Tensor, height: int, width: int) -> Tensor:
    return interpolate(images, size=(height, width), mode="bicubic", antialias=True)


def low_pass_guide(reference: Tensor, guidance_scale: float, downscale: int, border: str) -> Guide:
    """The guide that pulls pred_x0's low frequencies towards those of ``reference`` (B, C, H, W) in [-1, 1]."""
    target = low_pass(reference, downscale, border)

    def guide(x_t: Tensor, timesteps: Tensor, predict: Predict) -> ReverseStep:
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            step = predict(x_t)
            distance = torch.linalg.vector_norm((target - low_pass(step.pred_x0, downscale, border)).flatten(1), dim=1)
            (gradient,) = torch.autograd.grad(distance.sum(), x_t)
        pred_x0, mean, log_variance = (part.detach() for part in step)
        return ReverseStep(pred_x0, mean - guidance_scale * gradient, log_variance)

    return guide
