"""The images that benchmarks of networks read."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.utils.data import default_collate

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.robustness.evaluation.sets import CROP, Images
from diffaug_transforms.robustness.evaluation.sets import HubImages as HubImages

from .options import default_device

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def side_of(network: ScoreNetwork) -> int:
    """The side of the images that a network is measured on: its own, or 224 pixels for a network of any size."""
    return network.image_size or CROP


def read_images(data: Images, places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) in [0, 1] and targets, at these places in ``data``, on the GPU if there is one."""
    images, targets = default_collate([data[place] for place in places])
    return images.to(default_device()).float() / 255, targets.to(default_device())
