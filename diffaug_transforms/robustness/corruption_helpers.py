"""What the corruptions are made of: blurs, motion, zooms, plasma, pictures of frost. Needs the extra ``benchmarks``."""

from __future__ import annotations

import functools
import importlib.util
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

Array = npt.NDArray[Any]
Rng = np.random.Generator


def blur(pixels: Array, sigma: float) -> Array:
    """scikit-image's ``gaussian`` with its defaults, channel by channel."""
    return ndimage.gaussian_filter(pixels, (sigma, sigma, 0), mode="nearest", truncate=4)


def disk_kernel(radius: float, smoothing: float) -> Array:
    """A disk that sums to 1, with an edge smoothed by a Gaussian of 3x3 pixels, or 5x5 beyond radius 8."""
    half = max(8, int(radius))
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    disk = np.float32(x**2 + y**2 <= radius**2)
    size = 3 if radius <= 8 else 5
    return cv2.GaussianBlur(disk / disk.sum(), (size, size), sigmaX=smoothing)


def move(image: Array, radius: int, sigma: float, angle: float) -> Array:
    """ImageMagick's MotionBlurImage: half a Gaussian along a line of whole pixels, borders repeated, rounded.

    Pixel i of the 2 radius + 1 lies at ceil(i cos(angle) - 1/2) columns and ceil(i sin(angle) - 1/2) rows.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    direction = np.array([math.sin(math.radians(angle)), math.cos(math.radians(angle))])
    rows, columns = np.ceil(direction[:, None] * steps - 0.5).astype(int) + 2 * radius
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1))
    np.add.at(kernel, (rows, columns), weights / weights.sum())
    return np.rint(np.clip(cv2.filter2D(image.astype(float), -1, kernel, borderType=cv2.BORDER_REPLICATE), 0, 255))


def zoom(pixels: Array, factor: float) -> Array:
    """The middle of an image, enlarged to its size. (H, W) or (H, W, C)."""
    size = pixels.shape[:2]
    crop = [math.ceil(side / factor) for side in size]
    top, left = ((side - part) // 2 for side, part in zip(size, crop))
    factors = (factor, factor, 1)[: pixels.ndim]
    large = ndimage.zoom(pixels[top : top + crop[0], left : left + crop[1]], factors, order=1)
    top, left = ((part - side) // 2 for side, part in zip(size, large.shape))
    return large[top : top + size[0], left : left + size[1]]


def plasma(side: int, decay: float, rng: Rng) -> Array:
    """Diamond-square heights on a torus, scaled to [0, 1]. ``side`` is a power of two."""
    heights = np.zeros((side, side))
    step, amplitude = side, 100.0

    def varied(total: Array, amplitude: float) -> Array:
        return total / 4 + rng.uniform(-(amplitude**2), amplitude**2, total.shape)

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        along, down = corners + np.roll(corners, -1, 1), corners + np.roll(corners, -1, 0)
        heights[half::step, half::step] = varied(along + np.roll(along, -1, 0), amplitude)
        centres = heights[half::step, half::step]
        heights[::step, half::step] = varied(along + centres + np.roll(centres, 1, 0), amplitude)
        heights[half::step, ::step] = varied(down + centres + np.roll(centres, 1, 1), amplitude)
        step, amplitude = half, amplitude / decay
    heights -= heights.min()
    return heights / heights.max()


@functools.lru_cache(maxsize=16)
def frost_picture(index: int, scale: float, height: int, width: int) -> Array:
    """uint8 RGB, scaled, or as much larger as an image of height x width pixels needs.

    imagecorruptions ships the official pictures. Its folder is read without importing it, which would compile.
    """
    package = importlib.util.find_spec("imagecorruptions")
    if package is None or not package.submodule_search_locations:
        raise ImportError("the pictures of frost are missing: imagecorruptions-imaug has them")
    name = f"frost{index + 1}.{'png' if index < 3 else 'jpg'}"
    path = Path(package.submodule_search_locations[0], "frost", name)
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise OSError(f"{path} is missing or no picture: install imagecorruptions-imaug again")
    scale = max(scale, (height + 1) / picture.shape[0], (width + 1) / picture.shape[1])
    return cv2.resize(picture, (0, 0), fx=scale, fy=scale)[..., ::-1]
