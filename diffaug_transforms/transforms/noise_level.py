"""estimate_sigma: how much noise an image has, from the image alone.

image --second differences--> residuals --mean of squares in 3x3 windows--> local variances --median--> sigma^2
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..images import Image, to_batch
from ..without_waiting import LateChecks

#: Side of the windows in which noise is averaged.
WINDOW = 3
#: (1, -1) and (1, -2, 1), by their order, correlated with themselves at the distances 0, 1 and 2.
CORRELATIONS = {1: (2, -1), 2: (6, -4, 1)}
#: On a device, the range of earlier images is checked here.
LATE_CHECKS = LateChecks()


def estimate_sigma(images: Image) -> Tensor:
    """The standard deviation of the noise in each image, on pixels in [0, 1]: float32 (B,), on the images' device.

    A constant image has 0. Fine texture counts as noise in part, so a clean image has a little: 0.014 on average for
    CIFAR-10, 0.010 for photos of 481x321 pixels.

    The second difference (1, -2, 1), taken down and then across, cancels smooth content and keeps white noise
    (Immerkaer 1996, "Fast noise variance estimation"). Its squares, over 36, are averaged over windows of 3x3 places
    and all channels. The average sees rare and large noise, such as wrong pixels, which the usual median of absolute
    values (Donoho & Johnstone 1994) does not see. The answer is the root of the median over the windows, which leaves
    out windows with edges. Along a side of 2 pixels it is the first difference (1, -1).

    On a GPU nothing waits for the device. So the error for floating point images outside [0, 1] comes in a later call.

    Args:
        images: a PIL image, a tensor (..., C, H, W), or a NumPy array (..., H, W, C): uint8, or floating point in
            [0, 1]. B is the product of the dimensions before C. Any number of channels, both sides at least 2 pixels.

    Raises:
        ValueError, TypeError: other images.

    Example:
        >>> noise = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> estimate_sigma(0.5 + torch.tensor([0.02, 0.1]).reshape(2, 1, 1, 1) * noise)
        tensor([0.0200, 0.1009])
    """
    return noise_level(to_batch(images, LATE_CHECKS))


def noise_level(batch: Tensor) -> Tensor:
    """``estimate_sigma`` of float32 images (B, C, H, W) in [0, 1]. ValueError if a side is below 2 pixels."""
    number, channels, height, width = batch.shape
    if not number:
        return batch.new_zeros(0)
    if min(height, width) < 2:
        raise ValueError(f"images must have at least 2 x 2 pixels for their noise to be seen. Got {height} x {width}")
    down, across = min(2, height - 1), min(2, width - 1)
    residuals = batch.diff(n=down, dim=-2).diff(n=across, dim=-1)
    window = min(WINDOW, height - down), min(WINDOW, width - across)
    squares = F.avg_pool2d(residuals.square().mean(dim=1, keepdim=True), window, stride=1)
    of_noise = CORRELATIONS[down][0] * CORRELATIONS[across][0] * median_of_noise(channels, window, (down, across))
    return (squares.flatten(1).median(dim=1).values / of_noise).sqrt()


def median_of_noise(channels: int, window: tuple[int, int], orders: tuple[int, int]) -> float:
    """The median of a window's mean square, for residuals of variance 1 that white noise leaves.

    The mean square is nearly chi-squared with nu degrees of freedom, over nu. Neighbouring residuals are correlated, so
    nu = channels (h w)^2 / (s(h) s(w)), with s(n) = the sum of the squared correlations between all n^2 pairs of places
    in a row. The median of chi-squared over nu is about (1 - 2 / (9 nu))^3 (Wilson & Hilferty 1931).
    """
    degrees = float(channels)
    for side, order in zip(window, orders):
        first, *others = CORRELATIONS[order]
        pairs = sum(max(side - k, 0) * (value / first) ** 2 for k, value in enumerate(others, start=1))
        degrees *= side**2 / (side + 2 * pairs)
    return (1 - 2 / (9 * degrees)) ** 3
