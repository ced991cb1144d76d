"""ImageNet-C's and CIFAR-10-C's 15 common corruptions of an image, at five severities."""

from __future__ import annotations

import difflib
from types import ModuleType
from typing import TypeVar, cast

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from ..images import restore, to_pixels
from .corruption_constants import CONSTANTS

DATASETS = tuple(CONSTANTS)
CORRUPTIONS = tuple(CONSTANTS["cifar10-c"])
MIN_SIDE = 16

Image = TypeVar("Image", Tensor, PIL.Image.Image)


def corrupt(
    image: Image,
    corruption: str,
    severity: int = 5,
    *,
    dataset: str = "cifar10-c",
    seed: int | torch.Generator | None = None,
    first: int = 0,
) -> Image:
    """Corrupt images as the official scripts do (Hendrycks and Dietterich, arXiv 1903.12261).

    Image i's draws depend on (seed, first + i) alone: a test set corrupted in batches of any size, each with ``first``
    its first image's index, is the same set. The formulas, their order and the constants are those of
    hendrycks/robustness, ``ImageNet-C/create_c/make_cifar_c.py`` and ``make_imagenet_c.py``; so is truncation to uint8.
    The draws are other ones: the official scripts set no seed, so the published images cannot be drawn again. Motion
    blur, for which they call ImageMagick, follows ImageMagick's formula. ImageNet-C's images were then saved as JPEG
    of quality 85, which is left to the caller.

    The constants are for 32 pixels (``cifar10-c``) and 224 (``imagenet-c``). Other sizes work: lengths stay in pixels,
    but ``elastic_transform``'s grow with the shorter side, fog fills the next power of two, and pictures of frost are
    enlarged where they are too small.

    Args:
        image: uint8 tensor (..., 3, H, W), tv_tensors.Image or RGB PIL image; H and W at least 16.
        corruption: one of ``CORRUPTIONS``.
        severity: 1...5.
        dataset: whose constants: ``cifar10-c`` or ``imagenet-c``.
        seed: an int of at least 0; or a generator, from which one is drawn; None: torch's global generator.
        first: the index of the first image.

    Returns:
        The corrupted image or images in the type, shape and device of ``image``.

    Raises:
        ValueError, TypeError: an argument is not as above. ImportError: the extra ``benchmarks`` is not installed.

    Example:
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
        >>> corrupt(images, "fog", severity=3, seed=0).shape
        torch.Size([8, 3, 32, 32])
    """
    check_arguments(corruption, severity, dataset)
    if first < 0:
        raise ValueError(f"first must be at least 0. Got {first}")
    pixels = _as_uint8(image)
    function = getattr(_functions(), corruption)
    constants = CONSTANTS[dataset][corruption][severity - 1]
    constants = constants if isinstance(constants, tuple) else (constants,)
    entropy = _as_seed(seed)
    result = torch.empty(pixels.shape, dtype=torch.uint8)
    for i, array in enumerate(pixels.permute(0, 2, 3, 1).cpu().numpy()):
        rng = np.random.default_rng((entropy, first + i))
        corrupted = function(np.ascontiguousarray(array), rng, *constants)
        result[i] = torch.from_numpy(corrupted.astype(np.uint8)).permute(2, 0, 1)
    return cast(Image, restore(result.to(pixels.device), image))


def check_arguments(corruption: str, severity: int, dataset: str) -> None:
    if corruption not in CORRUPTIONS:
        nearest = difflib.get_close_matches(str(corruption), CORRUPTIONS, n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
        raise ValueError(f"corruption must be one of {', '.join(CORRUPTIONS)}. Got {corruption!r}.{hint}")
    check_severity(severity)
    if dataset not in DATASETS:
        raise ValueError(f"dataset must be {' or '.join(map(repr, DATASETS))}. Got {dataset!r}")


def check_severity(severity: int) -> None:
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"severity must be one of 1, 2, 3, 4, 5. Got {severity!r}")


def _as_uint8(image: Tensor | PIL.Image.Image) -> Tensor:
    """As (B, 3, H, W), or an error that says what is wrong."""
    if not isinstance(image, (Tensor, PIL.Image.Image)):
        raise TypeError(f"image must be a tensor or a PIL image. Got {type(image).__name__}")
    if isinstance(image, PIL.Image.Image) and image.mode != "RGB":
        raise ValueError(f"PIL images must be of mode RGB. Got {image.mode}")
    pixels = to_pixels(image)
    if pixels.dtype != torch.uint8:
        raise TypeError(f"image must be uint8 in 0...255. Got {pixels.dtype}")
    if pixels.shape[1] != 3:
        raise ValueError(f"images must have 3 channels. Got {pixels.shape[1]}")
    if min(pixels.shape[-2:]) < MIN_SIDE:
        raise ValueError(f"images must be at least {MIN_SIDE} pixels high and wide. Got {tuple(pixels.shape[-2:])}")
    return pixels


def _as_seed(seed: int | torch.Generator | None) -> int:
    if seed is None or isinstance(seed, torch.Generator):
        device = "cpu" if seed is None else seed.device
        return int(torch.randint(2**63 - 1, (), generator=seed, device=device))
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError(f"seed must be an integer, a torch.Generator or None. Got {seed!r}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0. Got {seed}")
    return int(seed)


def _functions() -> ModuleType:
    """The corruptions, which need more than the package does."""
    try:
        from . import corruption_functions
    except ImportError as error:
        raise ImportError(
            "corruptions need OpenCV, SciPy, scikit-image and imagecorruptions-imaug: "
            f'pip install "diffaug-transforms[benchmarks]" ({error})'
        ) from error
    return corruption_functions
