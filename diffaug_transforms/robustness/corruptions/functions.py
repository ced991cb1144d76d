"""The 15 corruptions of Hendrycks and Dietterich, arXiv 1903.12261, over OpenCV, SciPy, scikit-image and Pillow.

Each corruption takes a uint8 image (H, W, 3), a NumPy generator and its constants from ``constants.py``. It returns an
array of the image's shape on the scale 0...255. The functions below them are their building blocks. This module needs
the extra ``benchmarks``, so it is imported where it is used.
"""

from __future__ import annotations

import functools
import io
import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image
import skimage.color
import skimage.util
from scipy import ndimage

from ...images import ASSETS

Array = npt.NDArray[Any]
Rng = np.random.Generator

#: The official pictures of frost in ``assets/frost``. The third has the pixels of the second.
FROST_PICTURES = ("frost1.png", "frost2.png", "frost2.png", "frost4.jpg", "frost5.jpg")


def gaussian_noise(image: Array, rng: Rng, sigma: float) -> Array:
    return 255 * np.clip(image / 255 + rng.normal(scale=sigma, size=image.shape), 0, 1)


def shot_noise(image: Array, rng: Rng, photons: float) -> Array:
    """Poisson noise of ``photons`` per unit of brightness."""
    return 255 * np.clip(rng.poisson(image / 255 * photons) / photons, 0, 1)


def impulse_noise(image: Array, rng: Rng, amount: float) -> Array:
    """Set each of a pixel's three values to 0 or 1, independently, with probability ``amount``."""
    return 255 * skimage.util.random_noise(image / 255, mode="s&p", amount=amount, rng=rng)


def defocus_blur(image: Array, rng: Rng, radius: float, smoothing: float) -> Array:
    return 255 * np.clip(cv2.filter2D(image / 255, -1, disk_kernel(radius, smoothing)), 0, 1)


def glass_blur(image: Array, rng: Rng, sigma: float, shift: int, rounds: int) -> Array:
    """Blur, copy each pixel from a random neighbour, and blur again.

    The copies run row by row from the bottom right, so a pixel that was replaced may be copied again. The official
    script means to swap two pixels, but NumPy's views turn the swap into a copy. This function computes the copy too.
    """
    blurred = np.uint8(255 * gaussian_blur(image / 255, sigma))
    height, width = image.shape[:2]
    rows, columns = np.arange(height - shift, shift, -1), np.arange(width - shift, shift, -1)
    pixels = (rows[:, None] * width + columns).ravel()
    source_of = list(range(height * width))
    for _ in range(rounds):
        dx, dy = rng.integers(-shift, shift, size=(len(pixels), 2)).T
        for pixel, neighbour in zip(pixels.tolist(), (pixels + dy * width + dx).tolist()):
            source_of[pixel] = source_of[neighbour]
    copied = blurred.reshape(-1, 3)[source_of].reshape(image.shape)
    return 255 * np.clip(gaussian_blur(copied / 255, sigma), 0, 1)


def motion_blur(image: Array, rng: Rng, radius: int, sigma: float) -> Array:
    return directional_blur(image, radius, sigma, rng.uniform(-45, 45))


def zoom_blur(image: Array, rng: Rng, stop: float, step: float) -> Array:
    """The mean of the image and its zooms. The first zoom factor is 1, so the image counts twice."""
    pixels = (image / 255).astype(np.float32)
    factors = np.arange(1, stop, step)
    return 255 * np.clip((pixels + sum(clipped_zoom(pixels, factor) for factor in factors)) / (len(factors) + 1), 0, 1)


def snow(
    image: Array,
    rng: Rng,
    mean: float,
    sigma: float,
    factor: float,
    threshold: float,
    radius: int,
    motion: float,
    image_weight: float,
) -> Array:
    """Flakes from noise (mean, sigma), zoomed by ``factor``, 0 below the threshold, blurred by motion (radius, motion).

    ``image_weight`` is the share of the image that is not whitened.
    """
    pixels = (image / 255).astype(np.float32)
    flakes = clipped_zoom(rng.normal(mean, sigma, image.shape[:2]), factor)
    flakes[flakes < threshold] = 0
    flakes = (255 * np.clip(flakes, 0, 1)).astype(np.uint8)
    layer = directional_blur(flakes, radius, motion, rng.uniform(-135, -45))[..., None] / 255
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
    whitened = image_weight * pixels + (1 - image_weight) * np.maximum(pixels, 1.5 * grey + 0.5)
    return 255 * np.clip(whitened + layer + np.rot90(layer, 2), 0, 1)


def frost(image: Array, rng: Rng, image_weight: float, frost_weight: float, scale: float) -> Array:
    """Add a random crop of one of five pictures of frost. The official scripts never draw their sixth picture."""
    height, width = image.shape[:2]
    picture = frost_picture(int(rng.integers(5)), scale, height, width)
    top, left = rng.integers(picture.shape[0] - height), rng.integers(picture.shape[1] - width)
    return np.clip(image_weight * image + frost_weight * picture[top : top + height, left : left + width], 0, 255)


def fog(image: Array, rng: Rng, amount: float, decay: float) -> Array:
    pixels = image / 255
    brightest = pixels.max()
    side = 2 ** math.ceil(math.log2(max(image.shape[:2])))
    foggy = pixels + amount * plasma_fractal(side, decay, rng)[: image.shape[0], : image.shape[1], None]
    return 255 * np.clip(foggy * brightest / (brightest + amount), 0, 1)


def brightness(image: Array, rng: Rng, added: float) -> Array:
    hsv = skimage.color.rgb2hsv(image / 255)
    hsv[..., 2] = np.clip(hsv[..., 2] + added, 0, 1)
    return 255 * np.clip(skimage.color.hsv2rgb(hsv), 0, 1)


def contrast(image: Array, rng: Rng, factor: float) -> Array:
    pixels = image / 255
    mean = pixels.mean((0, 1))
    return 255 * np.clip((pixels - mean) * factor + mean, 0, 1)


def elastic_transform(image: Array, rng: Rng, displacement: float, smoothing: float, corner_shift: float) -> Array:
    """Apply a random affine map, then a smooth random displacement of each pixel."""
    height, width = image.shape[:2]
    side = min(height, width)
    centre, third = np.array([height // 2, width // 2]), side // 3
    corners = (centre + third * np.array([[1, 1], [1, -1], [-1, -1]])).astype(np.float32)
    moved = corners + rng.uniform(-corner_shift * side, corner_shift * side, (3, 2)).astype(np.float32)
    affine = cv2.getAffineTransform(corners, moved)
    pixels = (image / 255).astype(np.float32)
    warped = cv2.warpAffine(pixels, affine, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    noise = rng.uniform(-1, 1, (2, height, width))
    dx, dy = (ndimage.gaussian_filter(n, smoothing * side, mode="reflect", truncate=3) for n in noise)
    rows, columns = np.mgrid[:height, :width]
    coordinates = [rows + displacement * side * dy, columns + displacement * side * dx]
    channels = [ndimage.map_coordinates(warped[..., c], coordinates, order=1, mode="reflect") for c in range(3)]
    return 255 * np.clip(np.stack(channels, -1), 0, 1)


def pixelate(image: Array, rng: Rng, scale: float) -> Array:
    height, width = image.shape[:2]
    small = PIL.Image.fromarray(image).resize((int(width * scale), int(height * scale)), PIL.Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), PIL.Image.Resampling.BOX))


def jpeg_compression(image: Array, rng: Rng, quality: int) -> Array:
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(PIL.Image.open(file))


def gaussian_blur(pixels: Array, sigma: float) -> Array:
    """scikit-image's ``gaussian`` with its defaults, for each channel."""
    return ndimage.gaussian_filter(pixels, (sigma, sigma, 0), mode="nearest", truncate=4)


def disk_kernel(radius: float, smoothing: float) -> Array:
    """A disk that sums to 1. A Gaussian smooths its edge: 3x3 pixels up to radius 8, 5x5 pixels beyond."""
    half = max(8, int(radius))
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    disk = np.float32(x**2 + y**2 <= radius**2)
    size = 3 if radius <= 8 else 5
    return cv2.GaussianBlur(disk / disk.sum(), (size, size), sigmaX=smoothing)


def directional_blur(image: Array, radius: int, sigma: float, angle: float) -> Array:
    """ImageMagick 6.9's MotionBlurImage: half a Gaussian along a line of whole pixels, borders repeated.

    Pixel i of the 2 radius + 1 lies at ceil(i cos(angle) - 1/2) columns and ceil(i sin(angle) - 1/2) rows. As in
    ImageMagick, the result is rounded to 16 bits, and these are truncated to 8 bits.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    direction = np.array([math.sin(math.radians(angle)), math.cos(math.radians(angle))])
    rows, columns = np.ceil(direction[:, None] * steps - 0.5).astype(int) + 2 * radius
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1))
    np.add.at(kernel, (rows, columns), weights / weights.sum())
    blurred = cv2.filter2D(image.astype(float), -1, kernel, borderType=cv2.BORDER_REPLICATE)
    return np.clip(np.floor(257 * blurred + 0.5), 0, 65535) // 257


def clipped_zoom(pixels: Array, factor: float) -> Array:
    """The middle of an image (H, W) or (H, W, C), enlarged to the size of the whole image."""
    size = pixels.shape[:2]
    crop = [math.ceil(side / factor) for side in size]
    top, left = ((side - part) // 2 for side, part in zip(size, crop))
    factors = (factor, factor, 1)[: pixels.ndim]
    large = ndimage.zoom(pixels[top : top + crop[0], left : left + crop[1]], factors, order=1)
    top, left = ((part - side) // 2 for side, part in zip(size, large.shape))
    return large[top : top + size[0], left : left + size[1]]


def plasma_fractal(side: int, decay: float, rng: Rng) -> Array:
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
    """An official picture of frost, uint8 RGB, scaled by ``scale``, or by more if it would not cover the image."""
    path = ASSETS / "frost" / FROST_PICTURES[index]
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise OSError(f"{path} is missing or no picture: install diffaug-transforms again")
    scale = max(scale, (height + 1) / picture.shape[0], (width + 1) / picture.shape[1])
    return cv2.resize(picture, (0, 0), fx=scale, fy=scale)[..., ::-1]
