"""The 15 corruptions of Hendrycks and Dietterich, arXiv 1903.12261, over OpenCV, SciPy, scikit-image and Pillow.

Each takes an image, uint8 (H, W, 3), a NumPy generator and its constants (``corruption_constants`` names them), and
returns an array of the image's shape on the scale 0...255. Needs the extra ``benchmarks``: import it where it is used.
"""

from __future__ import annotations

import io
import math

import cv2
import numpy as np
import PIL.Image
import skimage.color
import skimage.util
from scipy import ndimage

from .corruption_helpers import Array, Rng, blur, disk_kernel, frost_picture, move, plasma, zoom


def gaussian_noise(image: Array, rng: Rng, sigma: float) -> Array:
    return 255 * np.clip(image / 255 + rng.normal(scale=sigma, size=image.shape), 0, 1)


def shot_noise(image: Array, rng: Rng, photons: float) -> Array:
    return 255 * np.clip(rng.poisson(image / 255 * photons) / photons, 0, 1)


def impulse_noise(image: Array, rng: Rng, amount: float) -> Array:
    """Each of a pixel's three values is, by itself, set to 0 or 1 with probability ``amount``."""
    return 255 * skimage.util.random_noise(image / 255, mode="s&p", amount=amount, rng=rng)


def defocus_blur(image: Array, rng: Rng, radius: float, smoothing: float) -> Array:
    return 255 * np.clip(cv2.filter2D(image / 255, -1, disk_kernel(radius, smoothing)), 0, 1)


def glass_blur(image: Array, rng: Rng, sigma: float, shift: int, rounds: int) -> Array:
    """Blur, fetch pixels from near by, blur. Row by row from the bottom right: a fetched pixel may be fetched again.

    The official script means to swap two pixels, but NumPy's views make it a copy of one over the other. That is what
    it computes, so it is kept.
    """
    blurred = np.uint8(255 * blur(image / 255, sigma))
    height, width = image.shape[:2]
    rows, columns = np.arange(height - shift, shift, -1), np.arange(width - shift, shift, -1)
    target = (rows[:, None] * width + columns).ravel()
    source_of = list(range(height * width))
    for _ in range(rounds):
        dx, dy = rng.integers(-shift, shift, size=(len(target), 2)).T
        for here, there in zip(target.tolist(), (target + dy * width + dx).tolist()):
            source_of[here] = source_of[there]
    return 255 * np.clip(blur(blurred.reshape(-1, 3)[source_of].reshape(image.shape) / 255, sigma), 0, 1)


def motion_blur(image: Array, rng: Rng, radius: int, sigma: float) -> Array:
    return move(image, radius, sigma, rng.uniform(-45, 45))


def zoom_blur(image: Array, rng: Rng, stop: float, step: float) -> Array:
    """The mean of the image and of its zooms, the first of which is the image once more."""
    pixels = (image / 255).astype(np.float32)
    factors = np.arange(1, stop, step)
    return 255 * np.clip((pixels + sum(zoom(pixels, factor) for factor in factors)) / (len(factors) + 1), 0, 1)


def snow(
    image: Array,
    rng: Rng,
    mean: float,
    sigma: float,
    factor: float,
    threshold: float,
    radius: int,
    motion: float,
    kept: float,
) -> Array:
    pixels = (image / 255).astype(np.float32)
    flakes = zoom(rng.normal(mean, sigma, image.shape[:2]), factor)
    flakes[flakes < threshold] = 0
    layer = move(np.uint8(255 * np.clip(flakes, 0, 1)), radius, motion, rng.uniform(-135, -45))[..., None] / 255
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
    whitened = kept * pixels + (1 - kept) * np.maximum(pixels, 1.5 * grey + 0.5)
    return 255 * np.clip(whitened + layer + np.rot90(layer, 2), 0, 1)


def frost(image: Array, rng: Rng, image_weight: float, frost_weight: float, scale: float) -> Array:
    """A random crop of one of five pictures of frost. The official scripts never draw their sixth."""
    height, width = image.shape[:2]
    picture = frost_picture(int(rng.integers(5)), scale, height, width)
    top, left = rng.integers(picture.shape[0] - height), rng.integers(picture.shape[1] - width)
    return np.clip(image_weight * image + frost_weight * picture[top : top + height, left : left + width], 0, 255)


def fog(image: Array, rng: Rng, amount: float, decay: float) -> Array:
    pixels = image / 255
    brightest = pixels.max()
    side = 2 ** math.ceil(math.log2(max(image.shape[:2])))
    foggy = pixels + amount * plasma(side, decay, rng)[: image.shape[0], : image.shape[1], None]
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
    """A random affine map, then a smooth random displacement of each pixel."""
    height, width = image.shape[:2]
    side = min(height, width)
    centre, third = np.array([height // 2, width // 2]), side // 3
    corners = np.float32(centre + third * np.array([[1, 1], [1, -1], [-1, -1]]))
    moved = corners + np.float32(rng.uniform(-corner_shift * side, corner_shift * side, (3, 2)))
    affine = cv2.getAffineTransform(corners, moved)
    pixels = (image / 255).astype(np.float32)
    warped = cv2.warpAffine(pixels, affine, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    noise = rng.uniform(-1, 1, (2, height, width))
    dx, dy = (ndimage.gaussian_filter(n, smoothing * side, mode="reflect", truncate=3) for n in noise)
    rows, columns = np.mgrid[:height, :width]
    where = [rows + displacement * side * dy, columns + displacement * side * dx]
    channels = [ndimage.map_coordinates(warped[..., c], where, order=1, mode="reflect") for c in range(3)]
    return 255 * np.clip(np.stack(channels, -1), 0, 1)


def pixelate(image: Array, rng: Rng, scale: float) -> Array:
    height, width = image.shape[:2]
    small = PIL.Image.fromarray(image).resize((int(width * scale), int(height * scale)), PIL.Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), PIL.Image.Resampling.BOX))


def jpeg_compression(image: Array, rng: Rng, quality: int) -> Array:
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(PIL.Image.open(file))
