"""Noise2Net: a small image-to-image Res2Net with random weights from a seed. It needs no pretrained weights.

The sizes, probabilities and ranges are those of train_noise2net.py in github.com/hendrycks/imagenet-r (Hendrycks et
al., ICCV 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ...without_waiting import send
from .weights import pick

BLOCKS = 4
SCALES = 4
HIDDEN = 16
MAX_EPSILON = 0.75
#: The network sees images as an ImageNet classifier does.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


#: Pixels of the images that go through at once on a device other than the CPU. Their features take about 1.3 GB.
DEVICE_PIXELS = 2**20


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
    if device.type == "cpu":
        return structure
    tensors = [leaf for leaf in tree_leaves(structure) if isinstance(leaf, Tensor)]
    flat = send(torch.cat([tensor.flatten() for tensor in tensors]), device)
    parts = iter(flat.split([tensor.numel() for tensor in tensors]))
    return tree_map(lambda leaf: next(parts).reshape(leaf.shape) if isinstance(leaf, Tensor) else leaf, structure)


def normalize(features: Tensor) -> Tensor:
    """Normalize each channel of each image to mean 0 and variance 1, as the original's batch normalization does."""
    return F.layer_norm(features, features.shape[2:])


def convolve(x: Tensor, weights: Sequence[Tensor], padding: int = 0) -> Tensor:
    """Convolve each image of x (B, C, H, W) with its own weight (out, C, k, k), by one grouped convolution."""
    images, _, *size = x.shape
    options: Any = {"padding": padding, "dilation": max(padding, 1), "groups": images}
    return F.conv2d(x.reshape(1, -1, *size), torch.cat(list(weights)), **options).reshape(images, -1, *size)


def convolve_mixed(x: Tensor, weights: Sequence[Tensor], dilations: Sequence[int]) -> Tensor:
    """As ``convolve``, for kernels of 1 or 3 pixels with any dilations. Images whose kernels are alike go together."""
    places: dict[int, list[int]] = {}
    for place, (weight, dilation) in enumerate(zip(weights, dilations)):
        places.setdefault(dilation * (weight.shape[-1] // 2), []).append(place)
    images, results = x.split(1), list(x)
    for padding, alike in places.items():
        if len(alike) == len(x):
            return convolve(x, weights, padding)
        result = convolve(torch.cat([images[i] for i in alike]), [weights[i] for i in alike], padding)
        for i, image in zip(alike, result):
            results[i] = image
    return torch.stack(results)


def run_block(blocks: Sequence[Block], x: Tensor) -> Tensor:
    """Res2Net (Gao et al. 2019, eq. 1): the convolution of every scale also sees the result of the scale before it.

    Each image of x has a block.
    """
    scales = list(F.relu(normalize(convolve(x, [block.expand for block in blocks]))).split(HIDDEN, dim=1))
    for i in range(SCALES - 1):
        features = scales[i] + scales[i - 1] if i else scales[i]
        weights, dilations = [block.convs[i] for block in blocks], [block.dilations[i] for block in blocks]
        scales[i] = F.relu(normalize(convolve_mixed(features, weights, dilations)))
    return normalize(convolve(torch.cat(scales, dim=1), [block.project for block in blocks]))


def run_part(images: Tensor, seeds: Sequence[int], epsilons: Sequence[float]) -> Tensor:
    """``noise2net``, all images at once."""
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    epsilon = torch.tensor(epsilons).reshape(-1, 1, 1, 1)
    networks = [make_noise2net(seed) for seed in seeds]
    mean, std, epsilon, networks = to_device((mean, std, epsilon, networks), images.device)
    x = (images - mean) / std
    for blocks in zip(*networks):
        x = x + epsilon * run_block(blocks, x)
    return (x * std + mean).clamp(0, 1)


def noise2net(images: Tensor, seeds: Sequence[int], epsilons: Sequence[float]) -> Tensor:
    """x + epsilon block(x), four times, in ImageNet's normalization. The result is clipped to [0, 1].

    The images are (B, 3, H, W) in [0, 1]. Each has its own network and epsilon. On a CPU, images go one at a time:
    grouped convolutions over a batch are no faster there at 32 pixels, and take three times as long at 224.
    """
    size = 1 if images.device.type == "cpu" else max(1, DEVICE_PIXELS // images.shape[-2:].numel())
    parts = [slice(start, start + size) for start in range(0, len(images), size)]
    return torch.cat([run_part(images[part], seeds[part], epsilons[part]) for part in parts])
