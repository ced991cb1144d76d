"""The 15 common corruptions of CIFAR-10-C, Tiny ImageNet-C and ImageNet-C, at five severities."""

from __future__ import annotations

import difflib
from typing import Any, TypeVar, cast

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from ...arguments import as_integer, check_choice, shown
from ...deprecated import warn_renamed
from ...images import restore, to_pixels
from .constants import CONSTANTS

CORRUPTION_SETS = tuple(CONSTANTS)
CORRUPTIONS = tuple(CONSTANTS["cifar10-c"])
MIN_SIDE = 16

Image = TypeVar("Image", Tensor, PIL.Image.Image)


def corrupt(
    image: Image,
    corruption: str,
    severity: int = 5,
    *,
    corruption_set: str = "cifar10-c",
    seed: int | torch.Generator | None = None,
    first: int = 0,
    dataset: str | None = None,
) -> Image:
    """Corrupt images as the official scripts do (Hendrycks and Dietterich, arXiv 1903.12261).

    The formulas, their order, the constants and the truncation to uint8 are those of hendrycks/robustness,
    ``ImageNet-C/create_c/make_cifar_c.py``, ``make_tinyimagenet_c.py`` and ``make_imagenet_c.py``. The official scripts
    set no seed, so nobody can draw the published images again. They call ImageMagick for motion blur; this function
    computes what its version 6.9 does. They also save the images of ImageNet-C and Tiny ImageNet-C as JPEG of quality
    85; ``Corrupted`` does so, this function does not.

    The draws for image i depend only on ``seed`` and ``first`` + i. So a test set can be corrupted in batches of any
    size: pass the index of a batch's first image as ``first``.

    The constants are made for images of 32 pixels (``cifar10-c``), 64 pixels (``tiny-imagenet-c``) and 224 pixels
    (``imagenet-c``). Other sizes work.
    Lengths stay in pixels, with three exceptions: the lengths of ``elastic_transform`` grow with the shorter side, fog
    fills the next power of two, and pictures of frost are enlarged if they are too small.

    Args:
        image: uint8 tensor (..., 3, H, W), tv_tensors.Image or RGB PIL image. H and W are at least 16.
        corruption: one of ``CORRUPTIONS``.
        severity: 1...5.
        corruption_set: the set whose constants are used: ``cifar10-c``, ``tiny-imagenet-c`` or ``imagenet-c``.
        seed: an int of at least 0, or a generator that draws one. None uses torch's global generator.
        first: the index of the first image.
        dataset: old name of ``corruption_set``.

    Returns:
        The corrupted image or images in the type, shape and device of ``image``.

    Raises:
        ValueError, TypeError: an argument is not as above. ImportError: the extra ``benchmarks`` is not installed.

    Example:
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
        >>> corrupt(images, "fog", severity=3, seed=0).shape
        torch.Size([8, 3, 32, 32])
    """
    if dataset is not None:
        warn_renamed("corrupt(dataset=...)", "corrupt(corruption_set=...)")
        corruption_set = dataset
    check_corruption(corruption, severity, corruption_set)
    first, severity = as_integer("first", first, 0), int(severity)
    pixels = _as_uint8(image)
    try:
        from . import functions
    except ImportError as error:
        raise ImportError(
            f'corruptions need OpenCV, SciPy and scikit-image: pip install "diffaug-transforms[benchmarks]" ({error})'
        ) from error
    function = getattr(functions, corruption)
    constants = CONSTANTS[corruption_set][corruption][severity - 1]
    constants = constants if isinstance(constants, tuple) else (constants,)
    entropy = _as_seed(seed)
    result = torch.empty(pixels.shape, dtype=torch.uint8)
    for i, array in enumerate(pixels.permute(0, 2, 3, 1).cpu().numpy()):
        rng = np.random.default_rng((entropy, first + i))
        corrupted = function(np.ascontiguousarray(array), rng, *constants)
        result[i] = torch.from_numpy(corrupted.astype(np.uint8)).permute(2, 0, 1)
    return cast(Image, restore(result.to(pixels.device), image))


def check_corruption(corruption: str, severity: int, corruption_set: str) -> None:
    if not isinstance(corruption, str) or corruption not in CORRUPTIONS:
        nearest = difflib.get_close_matches(str(corruption), CORRUPTIONS, n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
        raise ValueError(f"corruption must be one of {', '.join(CORRUPTIONS)}. Got {corruption!r}.{hint}")
    check_severity(severity)
    check_choice("corruption_set", corruption_set, CORRUPTION_SETS)


def check_severity(severity: Any) -> None:
    as_integer("severity", severity, 1, 5)


def _as_uint8(image: Tensor | PIL.Image.Image) -> Tensor:
    """The image or images as uint8 (B, 3, H, W)."""
    if not isinstance(image, (Tensor, PIL.Image.Image)):
        raise TypeError(f"image must be a tensor or a PIL image. Got {shown(image)}: use v2.functional.to_image")
    if isinstance(image, PIL.Image.Image) and image.mode != "RGB":
        raise ValueError(f'PIL images must be of mode RGB. Got {image.mode}: use image.convert("RGB")')
    pixels = to_pixels(image)
    if pixels.dtype != torch.uint8:
        cure = "v2.functional.to_dtype(image, torch.uint8, scale=True)"
        raise TypeError(f"image must be uint8 in 0...255. Got {pixels.dtype}: use {cure}")
    if pixels.shape[1] != 3:
        raise ValueError(f"images must be RGB with 3 channels, (..., 3, H, W). Got {shown(image)}")
    if min(pixels.shape[-2:]) < MIN_SIDE:
        raise ValueError(f"images must be at least {MIN_SIDE} pixels high and wide. Got {tuple(pixels.shape[-2:])}")
    return pixels


def _as_seed(seed: int | torch.Generator | None) -> int:
    if seed is None or isinstance(seed, torch.Generator):
        device = "cpu" if seed is None else seed.device
        return int(torch.randint(2**63 - 1, (), generator=seed, device=device))
    return as_integer("seed", seed, 0)
