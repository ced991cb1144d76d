"""DDA's images, kept as PNG files: they cost a hundred network calls each and serve every classifier and later run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import PIL.Image
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from diffaug_transforms.robustness.adaptation import DDA


def draw_noise(indices: Sequence[int], number: int, size: Sequence[int], seed: int) -> Tensor:
    """(number, B, C, H, W), where an image's noise depends on the seed and its index alone: on no batch or process."""
    drawn = []
    for index in indices:
        generator = torch.Generator().manual_seed(hash((seed, index)) % 2**63)
        drawn.append(torch.randn(number, *size, generator=generator))
    return torch.stack(drawn, dim=1)


def adapted_images(dda: DDA, images: Tensor, indices: Sequence[int], folder: Path, seed: int) -> Tensor:
    """DDA's answer to images uint8 (B, C, H, W), in [0, 1]: read from ``folder`` where it is, else made and kept.

    Args:
        dda: on the images' device.
        images, indices: images of a test set and their places in it, which name the files.
        folder: of this test set, this network and these settings.
        seed: of the noise.
    """
    paths = [folder / f"{index:05d}.png" for index in indices]
    missing = [place for place, path in enumerate(paths) if not path.exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        stride, (height, width) = dda.network.stride, images.shape[-2:]
        padded = (images.shape[1], -(-height // stride) * stride, -(-width // stride) * stride)
        noise = draw_noise([indices[i] for i in missing], len(dda.timesteps) - 1, padded, seed)
        adapted = dda.adapt(images[missing].float() / 255, noise.to(images.device))
        for place, image in zip(missing, (adapted * 255).round().to(torch.uint8).cpu()):
            unfinished = paths[place].with_suffix(".part")
            F.to_pil_image(image).save(unfinished, "PNG")
            unfinished.replace(paths[place])
    return torch.stack([F.pil_to_tensor(PIL.Image.open(path)) for path in paths]).to(images.device) / 255
