"""Every conversion and check of images and labels: what people hold <-> the float batch that everything computes on.

    PIL image, uint8, float, tv_tensors, (..., C, H, W)  --to_batch-->  float32 (B, C, H, W) in [0, 1]
                                                        <--from_batch--

`image` and `images` are pixels in [0, 1] or 0...255. `x_0` and `x_t` are on the scale of [-1, 1] (see `score`).
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

#: The only data folder of the package: network weights, classifiers, sample images, tables.
ASSETS = Path(__file__).parent / "assets"
#: What transforms of this package augment; everything else in a sample passes through.
IMAGE_TYPES = (v2._utils.is_pure_tensor, tv_tensors.Image, PIL.Image.Image)
#: The longest side of a picture that is read, in pixels. Pillow limits the product of the sides only, and needs much
#: memory for each row: a file of 74 bytes that declares 1 x 49,000,000 pixels would take 1.35 GB.
MAX_SIDE = 32_768
#: A chain of float transforms may leave [0, 1] by a rounding error.
TOLERANCE = 5e-5
#: Keys under which a dict sample may hold its labels.
LABEL_KEYS = ("labels", "label", "targets", "target", "y")


def batch_shape(image: Tensor | PIL.Image.Image) -> tuple[tuple[int, ...], torch.device]:
    """(B, C, H, W) of the batch that ``to_batch`` makes, and its device. ValueError below three dimensions."""
    if isinstance(image, PIL.Image.Image):
        return (1, len(image.getbands()), image.height, image.width), torch.device("cpu")
    if image.ndim < 3:
        raise ValueError(f"images must be (..., C, H, W). Got shape {tuple(image.shape)}")
    return (math.prod(image.shape[:-3]), *image.shape[-3:]), image.device


def to_pixels(image: Tensor | PIL.Image.Image) -> Tensor:
    """One image or many as a plain (B, C, H, W) tensor of their own dtype."""
    if isinstance(image, PIL.Image.Image):
        return F.pil_to_tensor(image)[None]
    if image.ndim < 3:
        raise ValueError(f"images must be (..., C, H, W). Got shape {tuple(image.shape)}")
    pixels = image.as_subclass(Tensor) if isinstance(image, tv_tensors.TVTensor) else image
    return pixels.reshape(math.prod(image.shape[:-3]), *image.shape[-3:])


def to_batch(image: Tensor | PIL.Image.Image) -> Tensor:
    """One image or many as float32 (B, C, H, W) in [0, 1].

    Args:
        image: a PIL image, or a tensor (..., C, H, W): uint8 in 0...255, or floating point in [0, 1].

    Raises:
        TypeError: another dtype. ValueError: fewer than three dimensions, values outside [0, 1] or not finite.

    Example:
        >>> to_batch(torch.tensor([[[0, 51, 255]]], dtype=torch.uint8))
        tensor([[[[0.0000, 0.2000, 1.0000]]]])
    """
    pixels = to_pixels(image)
    if pixels.dtype == torch.uint8:
        return pixels.float() / 255
    if not pixels.is_floating_point():
        raise TypeError(f"images must be uint8 in 0...255 or floating point in [0, 1]. Got {pixels.dtype}")
    if not torch.compiler.is_compiling() and pixels.numel():
        low, high = torch.stack(torch.aminmax(pixels.detach())).tolist()
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
            values = [round(low, 4), round(high, 4)]
            raise ValueError(f"floating point images must be finite and in [0, 1]. Got values in {values}")
    return pixels.float()


def to_dtype(batch: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 in [0, 1] as uint8, rounded, or as another floating point type."""
    return (batch * 255).round().to(dtype) if dtype == torch.uint8 else batch.to(dtype)


def from_batch(batch: Tensor, like: Tensor | PIL.Image.Image, index: Tensor | None = None) -> Tensor | PIL.Image.Image:
    """A float32 batch in [0, 1] in the type, dtype and shape of ``like``: the inverse of ``to_batch``.

    Args:
        batch: (B, C, H, W), B the number of images in ``like``; with ``index``, as many as that has entries.
        like: what ``to_batch`` took.
        index: int64, the places of the batch's images in ``like``. The other images keep their exact values.
    """
    if isinstance(like, PIL.Image.Image):
        return like if index is not None and not len(index) else restore(to_dtype(batch, torch.uint8), like)
    pixels = to_dtype(batch, like.dtype)
    return restore(pixels if index is None else to_pixels(like).index_copy(0, index, pixels), like)


def restore(pixels: Tensor, like: Tensor | PIL.Image.Image) -> Tensor | PIL.Image.Image:
    """(B, C, H, W) pixels of the final dtype in the type and shape of ``like``."""
    if isinstance(like, PIL.Image.Image):
        return F.to_pil_image(pixels[0], mode=like.mode)
    pixels = pixels.reshape(like.shape)
    return tv_tensors.wrap(pixels, like=like) if isinstance(like, tv_tensors.TVTensor) else pixels


def check_channels(batch: Tensor, channels: int) -> None:
    if batch.shape[1] != channels:
        raise ValueError(f"images must have the network's {channels} channels. Got {batch.shape[1]}")


def find_labels(sample: Any) -> Any:
    """The labels in a sample: a dict's entry under one of ``LABEL_KEYS``, else what follows the images, else None."""
    if isinstance(sample, Mapping):
        return next((sample[key] for key in LABEL_KEYS if key in sample), None)
    if isinstance(sample, (tuple, list)) and len(sample) > 1:
        return find_labels(sample[1]) if isinstance(sample[1], Mapping) else sample[1]
    return None


def as_labels(labels: Any, number: int, device: torch.device | str, num_classes: int | None = None) -> Tensor:
    """Labels as int64 (number,) on a device.

    Raises:
        ValueError: None, floating point, not one per image, or outside 0...num_classes-1 where that is given.
    """
    if labels is None:
        raise ValueError("labels must be one per image. Got None")
    if isinstance(labels, Tensor) and (labels.is_floating_point() or labels.dtype == torch.bool):
        raise ValueError(f"labels must be integer classes. Got {labels.dtype}: put DiffAug before MixUp and CutMix")
    index = torch.as_tensor(labels, device=device).reshape(-1)
    if index.is_floating_point():
        raise ValueError(f"labels must be integer classes. Got {index.dtype}")
    if len(index) != number:
        raise ValueError(f"labels must be one per image. Got {len(index)} for {number} images")
    return check_labels(index.long(), num_classes)


def check_labels(labels: Tensor, num_classes: int | None) -> Tensor:
    """The labels. ValueError unless all lie in 0...num_classes-1; None checks the lower end alone."""
    # Not on another device, where reading a value would wait for it.
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return labels
    top = math.inf if num_classes is None else num_classes
    wrong = [label for label in labels.tolist() if not 0 <= label < top]
    if wrong:
        limits = "at least 0" if num_classes is None else f"in 0...{num_classes - 1}"
        raise ValueError(f"labels must be {limits}. Got {wrong[0]}")
    return labels


def load_image(file: str | Path | bytes, name: str | None = None) -> PIL.Image.Image:
    """A picture from a path or from its bytes, upright and RGB: the one reader for files.

    Args:
        file: a path, or the bytes of a file.
        name: what error messages call it. None: its path, or "the picture".

    Raises:
        OSError: the file is missing, damaged or no picture, or a side is longer than ``MAX_SIDE``; the message holds
            the name.
    """
    opened = io.BytesIO(file) if isinstance(file, bytes) else file
    name = name or ("the picture" if isinstance(file, bytes) else str(file))
    try:
        with PIL.Image.open(opened) as picture:  # reads the header only
            check_sides(picture)
            return PIL.ImageOps.exif_transpose(picture).convert("RGB")
    except FileNotFoundError as error:
        raise OSError(f"there is no file {name}") from error
    except Exception as error:
        reason = str(error).replace(repr(opened), repr(name))
        raise OSError(f"{name} is no whole picture: {type(error).__name__}: {reason}") from error


def check_sides(picture: PIL.Image.Image) -> None:
    """ValueError for a side above ``MAX_SIDE``, by what the file declares, before its pixels are read."""
    if max(picture.size) > MAX_SIDE:
        width, height = picture.size
        raise ValueError(f"a picture's sides must have at most {MAX_SIDE} pixels. Got {width} x {height}")


def sample_images() -> dict[str, PIL.Image.Image]:
    """The eight CIFAR-10 test images that the package ships, by class name."""
    return {path.stem: load_image(path) for path in sorted((ASSETS / "samples").glob("*.png"))}
