"""EDSR, a super-resolution network by 4, with randomly corrupted weights and features.

The network is EDSR-baseline (Lim et al., CVPR workshops 2017): 16 residual blocks, 64 features, residual scale 1. The
corruptions and their probabilities are those of EDSR_distort_imagenet.py in github.com/hendrycks/imagenet-r (Hendrycks
et al., ICCV 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...without_waiting import send
from . import weights as change
from .weights import Change, Shapes, Weights, keep, load_weights, pick, pick_several, random_signs, uniform

BLOCKS = 16
FEATURES = 64
#: Features are corrupted before this part of the body.
MIDDLE = 5
#: Mean of each channel on DIV2K, on which EDSR was trained.
IMAGE_MEAN = (0.4488, 0.4371, 0.4040)
#: The network sees factor (image - mean): the official checkpoints (rgb_range 255), and those of the Hub.
SCALES: tuple[tuple[float, tuple[float, ...]], ...] = ((255.0, IMAGE_MEAN), (1.0, (0.0, 0.0, 0.0)))

Part = Callable[[Tensor], Tensor]


def edsr_shapes() -> Shapes:
    """Name -> shape of every tensor. The names are the official ones, which super-image's EDSR shares."""
    convolutions = {"head.0": (FEATURES, 3), f"body.{BLOCKS}": (FEATURES, FEATURES), "tail.1": (3, FEATURES)}
    convolutions |= {f"tail.0.{i}": (4 * FEATURES, FEATURES) for i in (0, 2)}
    convolutions |= {f"body.{block}.body.{i}": (FEATURES, FEATURES) for block in range(BLOCKS) for i in (0, 2)}
    shapes: Shapes = {f"{name}.weight": (*size, 3, 3) for name, size in convolutions.items()}
    return shapes | {f"{name}.bias": size[:1] for name, size in convolutions.items()}


def load_edsr(path: Path) -> Weights:
    """Weights of EDSR-baseline x4, from an official checkpoint or from super-image's, which the Hub has.

    super-image's network sees images in [0, 1]. It never uses the mean and the range of 255 that its file and its
    config.json name. No tensor tells the two kinds apart, so this takes the scale that changes flat grey images least.
    """
    weights = load_weights(path, edsr_shapes())
    grey = torch.tensor([0.1, 0.5, 0.9]).reshape(3, 1, 1, 1).expand(3, 3, 32, 32)
    candidates = [with_scale(weights, factor, mean) for factor, mean in SCALES]
    with torch.no_grad():
        changes = [(edsr(grey, candidate) - grey[..., :1, :1]).abs().mean().item() for candidate in candidates]
    return candidates[changes.index(min(changes))]


def with_scale(weights: Weights, factor: float, mean: Sequence[float]) -> Weights:
    return {**weights, "image.factor": torch.tensor(factor), "image.mean": torch.tensor(mean).reshape(3, 1, 1)}


class BlockCorruption(NamedTuple):
    """Changes to the weights of one block of the body."""

    blocks: Sequence[int]  # the block is drawn from these, all equally likely
    changes: dict[str, Change]  # name of a tensor in the block -> its change
    repeats: int = 1  # how often to draw a block and change it
    either: bool = False  # make one random change instead of all


THIRDS = (0, 3, 6, 9)
FOURTHS = (1, 5, 9)
FIRST = range(15)
rotate = partial(change.rotate, planes=((2, 3), (0, 1)))

#: All equally likely. Three are drawn per network, with replacement.
EDSR_CORRUPTIONS = (
    BlockCorruption(THIRDS, dict.fromkeys(("0.weight", "0.bias", "2.weight", "2.bias"), change.reverse_filters)),
    BlockCorruption((1, 4, 7), dict.fromkeys(("0.weight", "0.bias"), change.negate)),
    BlockCorruption(THIRDS, dict.fromkeys(("0.weight", "0.bias"), change.zero)),
    BlockCorruption(THIRDS, dict.fromkeys(("0.weight", "2.weight"), change.negative_gelu)),
    BlockCorruption(THIRDS, {"0.weight": change.times_laplacian_4}),
    BlockCorruption(THIRDS, {"0.weight": change.times_laplacian_8}),
    BlockCorruption(THIRDS, {"2.weight": partial(change.stretch, most=4)}),
    BlockCorruption(THIRDS, {"0.weight": change.mirror, "2.weight": change.negate}),
    BlockCorruption(FOURTHS, {"0.weight": change.sum_of_shifts}),
    BlockCorruption(THIRDS, {"0.weight": change.mix_uniform}),
    BlockCorruption(FOURTHS, {"2.weight": change.mix_dirichlet}),
    BlockCorruption(FIRST, {"2.weight": change.add_noise}),
    BlockCorruption(FIRST, dict.fromkeys(("0.weight", "2.weight"), rotate), repeats=5, either=True),
    BlockCorruption(FIRST, {"0.weight": change.flip_signs}, repeats=5),
    BlockCorruption(FIRST, {"0.weight": change.drop_weights}, repeats=5),
    BlockCorruption(FIRST, {"0.weight": partial(change.negate_filters, divisor=2)}, repeats=5),
    BlockCorruption(FIRST, dict.fromkeys(("0.weight", "2.weight"), change.keep_largest), repeats=5, either=True),
)


def apply_corruption(weights: Weights, corruption: BlockCorruption, generator: Generator) -> Weights:
    """New weights. The tensors passed in stay as they were."""
    weights = dict(weights)
    for _ in range(corruption.repeats):
        block = pick(corruption.blocks, generator)
        changes = list(corruption.changes.items())
        for name, make in [pick(changes, generator)] if corruption.either else changes:
            key = f"body.{block}.body.{name}"
            weights[key] = make(weights[key], generator)
    return weights


def corrupt_edsr_weights(weights: Weights, generator: Generator) -> Weights:
    """Apply three corruptions from the table, one after the other."""
    for index in pick_several(len(EDSR_CORRUPTIONS), 3, generator):
        weights = apply_corruption(weights, EDSR_CORRUPTIONS[index], generator)
    return weights


def copy_channels(x: Tensor, generator: Generator) -> Tensor:
    """Replace a channel by another one, five times.

    The original means to swap the two. It assigns views of one tensor to each other, so the second keeps its values.
    """
    order = list(range(x.shape[1]))
    for _ in range(5):
        first, second = pick_several(len(order), 2, generator)
        order[first] = order[second]
    return x[:, send(torch.tensor(order), x.device)]


def drop_features(x: Tensor, generator: Generator) -> Tensor:
    """Zero each feature with probability 0.05."""
    return x * (uniform(x.shape, x, generator) < 0.95)


def negate_features(x: Tensor, generator: Generator) -> Tensor:
    """Negate each feature with probability 0.025."""
    return x * random_signs(x.shape, x, generator, positive=0.975)


def run(parts: Sequence[Part], x: Tensor) -> Tensor:
    for part in parts:
        x = part(x)
    return x


def plain_body(parts: Sequence[Part], x: Tensor, generator: Generator) -> Tensor:
    return run(parts, x)


def negated_body(parts: Sequence[Part], x: Tensor, generator: Generator) -> Tensor:
    return run(parts[MIDDLE:], -run(parts[:MIDDLE], x))


def rectified_body(parts: Sequence[Part], x: Tensor, generator: Generator) -> Tensor:
    """Apply ReLU (probability 1/3) or GELU (2/3) after the first five blocks."""
    middle = run(parts[:MIDDLE], x)
    return run(parts[MIDDLE:], F.relu(middle) if pick((True, False, False), generator) else F.gelu(middle))


def flipped_body(parts: Sequence[Part], x: Tensor, generator: Generator) -> Tensor:
    """Reverse the channels after the first five blocks, and turn the image upside down (1/3) or left to right (2/3)."""
    axes = pick(((1, 2), (1, 3), (1, 3)), generator)
    return run(parts[MIDDLE:], run(parts[:MIDDLE], x).flip(axes))


def last_part(parts: Sequence[Part], x: Tensor, generator: Generator) -> Tensor:
    """Apply only the last part that none of three draws from 2...16 names.

    The original means to skip the three and to apply all others. It gives each part the input of the first one, so only
    the last result stays.
    """
    skipped = [2 + index for index in pick_several(len(parts) - 2, 3, generator)]
    return parts[max(i for i in range(len(parts)) if i not in skipped)](x)


#: All equally likely. One of each is drawn per image.
HEAD_DISTORTIONS = (copy_channels, drop_features, negate_features, keep)
BODY_DISTORTIONS = (negated_body, rectified_body, flipped_body, last_part, plain_body)


def convolve(x: Tensor, weights: Weights, name: str) -> Tensor:
    return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)


def residual_block(weights: Weights, block: int, x: Tensor) -> Tensor:
    return x + convolve(F.relu(convolve(x, weights, f"body.{block}.body.0")), weights, f"body.{block}.body.2")


def edsr(image: Tensor, weights: Weights, generator: Generator | None = None) -> Tensor:
    """A (1, 3, H, W) image in [0, 1] at four times the size, clipped to [0, 1].

    ``generator`` draws one distortion of the head's features and one of the body's. None: no distortion.
    """
    factor, mean = weights["image.factor"], weights["image.mean"]
    body: list[Part] = [partial(residual_block, weights, block) for block in range(BLOCKS)]
    body.append(partial(convolve, weights=weights, name=f"body.{BLOCKS}"))
    x = convolve(factor * (image - mean), weights, "head.0")
    if generator is None:
        x = x + run(body, x)
    else:
        x = pick(HEAD_DISTORTIONS, generator)(x, generator)
        x = x + pick(BODY_DISTORTIONS, generator)(body, x, generator)
    for name in ("tail.0.0", "tail.0.2"):
        x = F.pixel_shuffle(convolve(x, weights, name), 2)
    return (convolve(x, weights, "tail.1") / factor + mean).clamp(0, 1)
