"""estimate_sigma: how much noise an image has, from the image alone.

image --HH, all four shifts--> differences --mean of squares in 3x3 windows--> local variances --median--> sigma^2
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..images import Image, to_batch
from ..without_waiting import LateChecks

#: Side of the windows in which noise is averaged.
WINDOW = 3
#: On a device, the range of earlier images is checked here.
LATE_CHECKS = LateChecks()


def estimate_sigma(images: Image) -> Tensor:
    """The standard deviation of the noise in each image, on pixels in [0, 1]: float32 (B,), on the images' device.

    A constant image has 0. Texture counts as noise in part, so a clean image has a little: 0.024 on average for
    CIFAR-10, 0.014 for photos of 481x321 pixels.

    The Haar wavelet's diagonal differences (a - b - c + d) / 2 of 2x2 pixels cancel smooth content and keep the
    standard deviation of white noise (Donoho & Johnstone 1994). Donoho's estimate is the median of their absolute
    values. It does not see noise that hits few pixels. Here the squares of the differences are first averaged over
    windows of 3x3 places and all channels, and the median is taken over the windows. The average sees rare and large
    noise, such as wrong pixels. The median leaves out windows with edges. All four shifts of the wavelet are used.

    On a GPU nothing waits for the device. So the error for floating point images outside [0, 1] comes in a later call.

    Args:
        images: a PIL image, a tensor (..., C, H, W), or a NumPy array (..., H, W, C): uint8, or floating point in
            [0, 1]. B is the product of the dimensions before C. Any number of channels, both sides at least 2 pixels.

    Raises:
        ValueError, TypeError: other images.

    Example:
        >>> noise = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> estimate_sigma(0.5 + torch.tensor([0.02, 0.1]).reshape(2, 1, 1, 1) * noise)
        tensor([0.0199, 0.1004])
    """
    return noise_level(to_batch(images, LATE_CHECKS))


def noise_level(batch: Tensor) -> Tensor:
    """``estimate_sigma`` of float32 images (B, C, H, W) in [0, 1]. ValueError if a side is below 2 pixels."""
    number, channels, height, width = batch.shape
    if not number:
        return batch.new_zeros(0)
    if min(height, width) < 2:
        raise ValueError(f"images must have at least 2 x 2 pixels for their noise to be seen. Got {height} x {width}")
    top, bottom = batch[..., :-1, :], batch[..., 1:, :]
    differences = ((top[..., :-1] - top[..., 1:]) - (bottom[..., :-1] - bottom[..., 1:])) / 2
    window = min(WINDOW, height - 1), min(WINDOW, width - 1)
    variances = F.avg_pool2d(differences.square().mean(dim=1, keepdim=True), window, stride=1)
    return (variances.flatten(1).median(dim=1).values / median_of_noise(channels, *window)).sqrt()


def median_of_noise(channels: int, height: int, width: int) -> float:
    """The median of a window's mean square for white noise of variance 1.

    The mean square of a window is nearly chi-squared with nu degrees of freedom, over nu. Neighbouring differences
    share pixels and have the correlation -1/2, so nu = channels h^2 w^2 / (s(h) s(w)) with s(n) = n + (n - 1) / 2.
    The median of chi-squared over nu is about (1 - 2 / (9 nu))^3 (Wilson & Hilferty 1931).
    """
    shared = (height + (height - 1) / 2) * (width + (width - 1) / 2)
    degrees = channels * (height * width) ** 2 / shared
    return (1 - 2 / (9 * degrees)) ** 3
