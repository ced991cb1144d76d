"""Whether images and samples must be taken (True), must be refused (False), or may be either (None).

This is an independent statement of the package's promise. It is written for reading, not for speed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten
from torchvision import tv_tensors

from .values import both

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: Rounding of a chain of transforms may leave [0, 1] by less than SURE. Beyond UNSURE a value is wrong.
SURE, UNSURE = 1e-6, 1e-2

Strong = (PIL.Image.Image, tv_tensors.Image, tv_tensors.Video)


def is_pure(value: Any) -> bool:
    """A plain tensor or an array whose type may hold pixels."""
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 or value.dtype.kind == "f"
    plain = isinstance(value, Tensor) and not isinstance(value, tv_tensors.TVTensor)
    return plain and (value.dtype == torch.uint8 or value.is_floating_point())


def image_expectation(image: Any, channels: Collection[int]) -> bool | None:
    """Whether one image, or a batch in one tensor, must be taken by something that works on so many channels."""
    if getattr(image, "ndim", 0) > 3 and not len(image):
        return True if _is_good_empty(image, channels) else None  # an empty batch may come back as it is
    if isinstance(image, PIL.Image.Image):
        if not (image.width and image.height):
            return None
        return {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}.get(image.mode) in channels
    if isinstance(image, np.ndarray):
        return _array_expectation(image, channels)
    if not isinstance(image, Tensor) or isinstance(image, (tv_tensors.Mask, tv_tensors.BoundingBoxes)):
        return False
    if image.ndim < 3 or image.shape[-3] not in channels:
        return False
    if image.dtype not in (torch.uint8, *FLOATS):
        return False
    if not image.numel():
        return None
    if image.dtype == torch.uint8:
        return True
    return _range_expectation(float(image.detach().double().amin()), float(image.detach().double().amax()))


def _is_good_empty(image: Any, channels: Collection[int]) -> bool:
    return isinstance(image, Tensor) and image.shape[-3] in channels and image.dtype in (torch.uint8, *FLOATS)


def _array_expectation(image: np.ndarray, channels: Collection[int]) -> bool | None:
    """Height, width, channels."""
    if image.ndim not in (3, 4) or image.shape[-1] not in channels:
        return None if image.ndim == 2 and 1 in channels else False
    if image.dtype == np.uint8:
        return True
    if image.dtype.kind != "f":
        return False
    if not image.size:
        return None
    return _range_expectation(float(image.min()), float(image.max()))


def _range_expectation(low: float, high: float) -> bool | None:
    if low >= -SURE and high <= 1 + SURE:
        return True
    return None if low >= -UNSURE and high <= 1 + UNSURE else False


def image_roles(sample: Any) -> list[str]:
    """What each leaf of a sample is: "image", "other", which passes through, or "either"."""
    leaves, _ = tree_flatten(sample)
    listed = {id(leaf) for leaf in _listed_images(sample)}
    if any(isinstance(leaf, Strong) for leaf in leaves):
        colour = any(isinstance(leaf, Strong) and not _is_one_band(leaf) for leaf in leaves)
        return [_strong_role(leaf, colour, listed) for leaf in leaves]
    roles, found = [], False
    for leaf in leaves:
        if not is_pure(leaf) or leaf.ndim < 3:
            roles.append("either" if is_pure(leaf) and leaf.ndim == 2 and not found else "other")
        elif id(leaf) in listed:
            roles.append("either" if found else "image")
        else:
            roles.append("other" if found else "image")
            found = True
    return roles


def _strong_role(leaf: Any, colour: bool, listed: set[int]) -> str:
    if not isinstance(leaf, Strong):
        return "either" if id(leaf) in listed else "other"
    if _is_one_band(leaf) and colour:
        return "either" if id(leaf) in listed else "other"
    return "image"


def _is_one_band(leaf: Any) -> bool:
    return isinstance(leaf, PIL.Image.Image) and len(leaf.getbands()) == 1


def _listed_images(sample: Any) -> list[Any]:
    """The leaves that stand in a list of single images. Tensors and arrays in it have equally many channels."""
    if isinstance(sample, list) and sample and all(map(_is_single, sample)):
        channels = {_channels(entry) for entry in sample if not isinstance(entry, Strong)}
        return sample if len(channels) < 2 else []
    entries = sample.values() if isinstance(sample, dict) else sample if isinstance(sample, (list, tuple)) else ()
    return [leaf for entry in entries for leaf in _listed_images(entry)]


def _is_single(entry: Any) -> bool:
    return isinstance(entry, PIL.Image.Image) or (isinstance(entry, (Tensor, np.ndarray)) and entry.ndim == 3)


def _channels(entry: Tensor | np.ndarray) -> int:
    return entry.shape[-1 if isinstance(entry, np.ndarray) else -3]


def sample_expectation(sample: Any, channels: Collection[int]) -> bool | None:
    """Whether a sample must be taken: every image in it must be, and there must be one."""
    leaves, _ = tree_flatten(sample)
    roles = image_roles(sample)
    chosen = [leaf for leaf, role in zip(leaves, roles) if role == "image"]
    if not chosen:
        return None if not leaves or "either" in roles or _has_empty_list(sample) else False
    verdicts = [image_expectation(image, channels) for image in chosen]
    return both([*verdicts, *[None] * ("either" in roles)])


def _has_empty_list(sample: Any) -> bool:
    """An empty list is a batch without images."""
    if isinstance(sample, dict):
        return any(map(_has_empty_list, sample.values()))
    return isinstance(sample, (list, tuple)) and (sample == [] or any(map(_has_empty_list, sample)))


def count_images(images: Any) -> int | None:
    """How many images a batch, an image or a list holds."""
    if isinstance(images, PIL.Image.Image):
        return 1
    if isinstance(images, (list, tuple)):
        return len(images)
    if isinstance(images, np.ndarray):
        return len(images) if images.ndim == 4 else 1
    return int(np.prod(images.shape[:-3])) if isinstance(images, Tensor) else None
