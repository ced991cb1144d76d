"""Checks and conversions of what users pass in: constructor arguments, images, labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import PIL.Image
import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..score import ScoreNetwork

LABEL_KEYS = ("labels", "label", "targets", "target", "y")

#: What wrappers of a classifier take as ``normalize``.
Normalize = Callable[[Tensor], Tensor] | tuple[Sequence[float], Sequence[float]] | None


def as_timesteps(timesteps: Iterable[int] | int | None) -> tuple[int, ...] | None:
    """``timesteps`` as a tuple of ints >= 0; None stays None. Whether they are below T is known once T is."""
    if timesteps is None:
        return None
    if isinstance(timesteps, Tensor):
        timesteps = timesteps.tolist()
    steps = (timesteps,) if isinstance(timesteps, int) else tuple(timesteps)
    if not steps:
        raise ValueError("timesteps must hold at least one timestep. Got none")
    for t in steps:
        if isinstance(t, bool) or not hasattr(t, "__index__"):
            raise TypeError(f"timesteps must be integers. Got {t!r}")
        if t < 0:
            raise ValueError(f"timesteps must be at least 0. Got {t}")
    return tuple(int(t) for t in steps)


def check_max_batch(max_batch: int | None) -> None:
    if max_batch is not None and max_batch < 1:
        raise ValueError(f"max_batch must be at least 1. Got {max_batch}")


def check_channels(batch: Tensor, network: ScoreNetwork) -> None:
    if batch.shape[1] != network.in_channels:
        raise ValueError(f"images must have the network's {network.in_channels} channels. Got {batch.shape[1]}")


def size_warning(batch: Tensor, network: ScoreNetwork) -> str | None:
    """What to warn of where images are far from the network's native size: more than twice as large or small."""
    height, width = batch.shape[-2:]
    native = network.image_size
    if max(height, width, native) <= 2 * min(height, width, native):
        return None
    return (
        f"images of {height}x{width} pixels are far from the network's {native}x{native}; "
        "resize them or choose another network (list_score_networks)"
    )


def as_normalize(normalize: Normalize) -> Callable[[Tensor], Tensor]:
    """What comes before a classifier: of ``(mean, std)`` a ``v2.Normalize``; a callable as it is; of None nothing."""
    if normalize is None:
        return nn.Identity()
    return v2.Normalize(*normalize) if isinstance(normalize, tuple) else normalize


def batch_shape(image: Tensor | PIL.Image.Image) -> tuple[tuple[int, ...], torch.device]:
    """(B, C, H, W) that ``to_pixels`` would give, and the device."""
    if isinstance(image, PIL.Image.Image):
        return (1, len(image.getbands()), image.height, image.width), torch.device("cpu")
    if image.ndim < 3:
        raise ValueError(f"images must be (..., C, H, W). Got shape {tuple(image.shape)}")
    return (math.prod(image.shape[:-3]), *image.shape[-3:]), image.device


def to_pixels(image: Tensor | PIL.Image.Image) -> Tensor:
    """One image or many as a plain (B, C, H, W) tensor of their own dtype."""
    shape, _ = batch_shape(image)
    if isinstance(image, PIL.Image.Image):
        return F.pil_to_tensor(image).reshape(shape)
    pixels = image.as_subclass(Tensor) if isinstance(image, tv_tensors.TVTensor) else image
    return pixels.reshape(shape)


def to_float(pixels: Tensor) -> Tensor:
    """uint8, or floating point in [0, 1], as float32 in [0, 1].

    TypeError for other dtypes; ValueError for values outside [0, 1] or not finite.
    """
    if pixels.dtype == torch.uint8:
        return pixels.float() / 255
    if not pixels.is_floating_point():
        raise TypeError(f"images must be uint8 in 0...255 or floating point in [0, 1]. Got {pixels.dtype}")
    if pixels.numel():
        # Rounding in a chain of float transforms may leave [0, 1] by a little.
        low, high = (round(value, 4) for value in torch.stack(torch.aminmax(pixels.detach())).tolist())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"floating point images must be finite and in [0, 1]. Got values in {[low, high]}")
    return pixels.float()


def from_float(images: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 in [0, 1] as uint8, rounded, or as another floating point type."""
    return (images * 255).round().to(dtype) if dtype == torch.uint8 else images.to(dtype)


def restore(pixels: Tensor, like: Tensor | PIL.Image.Image) -> Tensor | PIL.Image.Image:
    """(B, C, H, W) pixels in the type and shape of ``like``."""
    if isinstance(like, PIL.Image.Image):
        return F.to_pil_image(pixels[0], mode=like.mode)
    pixels = pixels.reshape(like.shape)
    return tv_tensors.wrap(pixels, like=like) if isinstance(like, tv_tensors.TVTensor) else pixels


def find_labels(inputs: Any) -> Any:
    """The labels that travel with the images: a mapping's "labels" (or the like), else what follows the images."""
    if isinstance(inputs, Mapping):
        return next((inputs[key] for key in LABEL_KEYS if key in inputs), None)
    if isinstance(inputs, (tuple, list)) and len(inputs) > 1:
        return find_labels(inputs[1]) if isinstance(inputs[1], Mapping) else inputs[1]
    return None


def as_labels(labels: Any, batch: Tensor) -> Tensor | None:
    """Labels as int64 (B,) on the batch's device, or None where there are none. ValueError for another number."""
    if labels is None:
        return None
    if isinstance(labels, Tensor) and labels.is_floating_point():
        raise ValueError(f"labels must be integer classes. Got {labels.dtype}: put DiffAug before MixUp and CutMix")
    labels = torch.as_tensor(labels, dtype=torch.int64, device=batch.device).reshape(-1)
    if len(labels) != len(batch):
        raise ValueError(f"labels must be one per image. Got {len(labels)} for {len(batch)} images")
    return labels
