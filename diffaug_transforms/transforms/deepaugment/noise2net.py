"""Noise2Net: a small image-to-image Res2Net with random weights from a seed. It needs no pretrained weights.

The sizes, probabilities and ranges are those of train_noise2net.py in github.com/hendrycks/imagenet-r (Hendrycks et
al., ICCV 2021).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves, tree_map

from .weights import pick

BLOCKS = 4
SCALES = 4
HIDDEN = 16
MAX_EPSILON = 0.75
#: The network sees images as an ImageNet classifier does.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


class Block(NamedTuple):
    """A Res2Net bottleneck's weights."""

    expand: Tensor  # (64, 3, 1, 1)
    convs: list[Tensor]  # three tensors (16, 16, k, k), k is 1 or 3
    dilations: list[int]  # of the three convolutions
    project: Tensor  # (3, 64, 1, 1)


def initial_weight(shape: tuple[int, int, int, int], generator: Generator) -> Tensor:
    """As torch.nn.Conv2d: uniform within 1 / sqrt(fan in) of 0. Biases are left out: a normalization follows."""
    return (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(math.prod(shape[1:]))


def make_block(generator: Generator) -> Block:
    sizes = [pick((1, 3), generator) for _ in range(SCALES - 1)]
    return Block(
        expand=initial_weight((HIDDEN * SCALES, 3, 1, 1), generator),
        convs=[initial_weight((HIDDEN, HIDDEN, size, size), generator) for size in sizes],
        dilations=[pick((1, 2, 3), generator) for _ in sizes],
        project=initial_weight((3, HIDDEN * SCALES, 1, 1), generator),
    )


def make_noise2net(seed: int) -> list[Block]:
    """The four blocks that belong to a seed. The draw is on the CPU, so it is the same on every device.

    The original draws kernel sizes and dilations once per training run, and weights per image and step. Here a seed
    gives both.
    """
    generator = Generator().manual_seed(seed)
    return [make_block(generator) for _ in range(BLOCKS)]


def to_device(structure: Any, device: torch.device) -> Any:
    """All float32 tensors of a structure on a device, by one copy that the host does not wait for."""
    tensors = [leaf for leaf in tree_leaves(structure) if isinstance(leaf, Tensor)]
    flat = torch.cat([tensor.flatten() for tensor in tensors]).to(device, non_blocking=True)
    parts = iter(flat.split([tensor.numel() for tensor in tensors]))
    return tree_map(lambda leaf: next(parts).reshape(leaf.shape) if isinstance(leaf, Tensor) else leaf, structure)


def normalize(features: Tensor) -> Tensor:
    """Normalize each channel of one image to mean 0 and variance 1, as the original's batch normalization does."""
    return F.layer_norm(features, features.shape[2:])


def run_block(block: Block, x: Tensor) -> Tensor:
    """Res2Net (Gao et al. 2019, eq. 1): the convolution of every scale also sees the result of the scale before it."""
    scales = list(F.relu(normalize(F.conv2d(x, block.expand))).split(HIDDEN, dim=1))
    for i, (weight, dilation) in enumerate(zip(block.convs, block.dilations)):
        features = scales[i] + scales[i - 1] if i else scales[i]
        padding = dilation * (weight.shape[-1] // 2)
        features = F.conv2d(features, weight, padding=padding, dilation=dilation)
        scales[i] = F.relu(normalize(features))
    return normalize(F.conv2d(torch.cat(scales, dim=1), block.project))


def noise2net(image: Tensor, seed: int, epsilon: float | Tensor) -> Tensor:
    """x + epsilon block(x), four times, in ImageNet's normalization. The result is clipped to [0, 1].

    The image is (1, 3, H, W) in [0, 1]. Images go one at a time: on a CPU, a grouped convolution over a batch is no
    faster at 32 pixels and takes three times as long at 224.
    """
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    mean, std, blocks = to_device((mean, std, make_noise2net(seed)), image.device)
    x = (image - mean) / std
    for block in blocks:
        x = x + epsilon * run_block(block, x)
    return (x * std + mean).clamp(0, 1)
