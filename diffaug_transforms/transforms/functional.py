"""The transforms' functional form: nothing is drawn or kept, so the same arguments give the same result."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..arguments import check_instance
from ..images import Image, from_batch, to_batch
from ..score import Denoiser


def diffaug(image: Image, timesteps: Tensor, noise: Tensor, denoiser: Denoiser, labels: Any = None) -> Image:
    """Diffuse images to given timesteps and denoise them in one step: what ``DiffAug`` does with what it draws.

    ``DiffAug(denoiser).make_params([image])`` draws timesteps and noise that fit.

    Args:
        image: one image or B of them: a PIL image, a tensor (..., C, H, W) or a NumPy array (..., H, W, C), uint8 or
            floating point in [0, 1].
        timesteps: int64 (B,) in 0...T-1.
        noise: standard normal, floating point (B, C, H, W), on the images' device.
        denoiser: brings the network, such as ``Denoiser("cifar10")``. Make it once: it keeps the loaded network.
        labels: integers (B,) for a network with classes. None: its null class.

    Returns:
        The images in the type, shape and dtype of ``image``.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Example:
        >>> denoiser = Denoiser("cifar10")
        >>> image = torch.randint(256, (3, 32, 32), dtype=torch.uint8)
        >>> diffaug(image, torch.tensor([300]), torch.randn(1, 3, 32, 32), denoiser).shape
        torch.Size([3, 32, 32])
    """
    check_instance("denoiser", denoiser, Denoiser, ": Denoiser(network)")
    return from_batch(denoiser(to_batch(image), timesteps, noise, labels), image)
