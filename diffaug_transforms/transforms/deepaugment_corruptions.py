"""How DeepAugment corrupts the weights of EDSR and of the CAE: tables of changes, each with the layers it is for.

Layers, probabilities and repeats are those of EDSR_distort_imagenet.py and CAE_distort_imagenet.py in
github.com/hendrycks/imagenet-r (Hendrycks et al., ICCV 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from torch import Generator, Tensor

from . import deepaugment_weights as change
from .deepaugment_cae import LAYERS
from .deepaugment_weights import Change, Weights, pick, pick_several

EDSR_CORRUPTIONS_PER_NETWORK = 3

#: A layer's weight and bias, and a generator, to their new values.
LayerChange = Callable[[Tensor, Tensor, Generator], tuple[Tensor, Tensor]]


class BlockCorruption(NamedTuple):
    """Changes to the weights of a block drawn from ``blocks``, ``repeats`` times.

    Attributes:
        blocks: of the body, equally likely.
        changes: tensor's name in the block -> its change.
        repeats: each draws its own block.
        either: make one of the changes, drawn, instead of all.
    """

    blocks: Sequence[int]
    changes: dict[str, Change]
    repeats: int = 1
    either: bool = False


THIRDS = (0, 3, 6, 9)
FOURTHS = (1, 5, 9)
FIRST = range(15)
rotate = partial(change.rotate, planes=((2, 3), (0, 1)))

#: Equally likely; three are drawn per network, with replacement.
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
    """New weights; the tensors passed in stay as they were."""
    weights = dict(weights)
    for _ in range(corruption.repeats):
        block = pick(corruption.blocks, generator)
        changes = list(corruption.changes.items())
        for name, make in [pick(changes, generator)] if corruption.either else changes:
            key = f"body.{block}.body.{name}"
            weights[key] = make(weights[key], generator)
    return weights


def corrupt_edsr_weights(weights: Weights, generator: Generator) -> Weights:
    """Three corruptions of the table, one after the other."""
    for index in pick_several(len(EDSR_CORRUPTIONS), EDSR_CORRUPTIONS_PER_NETWORK, generator):
        weights = apply_corruption(weights, EDSR_CORRUPTIONS[index], generator)
    return weights


def weight_alone(make: Change, weight: Tensor, bias: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    return make(weight, generator), bias


def weight_and_bias(make: Change, weight: Tensor, bias: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    return make(weight, generator), make(bias, generator)


def some_filters(make: Change, draws: int, weight: Tensor, bias: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Filters drawn one after the other, with replacement: one drawn twice is changed twice."""
    weight, bias = weight.clone(), bias.clone()
    for k in pick_several(len(weight), draws, generator):
        weight[k], bias[k] = make(weight[k], generator), make(bias[k], generator)
    return weight, bias


def random_mask(weight: Tensor, generator: Generator) -> Tensor:
    """Half of the weights zeroed or half of them negated, either with probability 1/2."""
    return pick((change.drop_weights, change.flip_signs), generator)(weight, generator)


#: Layers, by their place in LAYERS, how many are drawn with replacement, and the change. One row is drawn per network.
CAE_CORRUPTIONS: tuple[tuple[range, int, LayerChange], ...] = (
    (range(11, 16), 2, partial(weight_and_bias, change.reverse_filters)),
    (range(8, 14), 1, partial(some_filters, change.negate, 12)),
    (range(8, 14), 1, partial(some_filters, change.zero, 25)),
    (range(10, 14), 1, partial(some_filters, change.negative_gelu, 25)),
    (range(8, 14), 2, partial(weight_alone, partial(change.stretch, most=8))),
    (range(8, 14), 1, partial(weight_alone, random_mask)),
    (range(8, 14), 1, partial(weight_alone, partial(change.rotate, planes=((2, 3),)))),
    (range(8, 14), 1, partial(weight_alone, partial(change.negate_filters, divisor=5))),
)


def corrupt_cae_weights(weights: Weights, generator: Generator) -> Weights:
    """New weights, by one row of the table; the tensors passed in stay as they were."""
    layers, draws, make = pick(CAE_CORRUPTIONS, generator)
    weights, names = dict(weights), list(LAYERS)
    for name in [names[pick(layers, generator)] for _ in range(draws)]:
        keys = (f"{name}.weight", f"{name}.bias")
        weights.update(zip(keys, make(weights[keys[0]], weights[keys[1]], generator)))
    return weights
