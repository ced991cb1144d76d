"""Weights of DeepAugment's pretrained networks: read from a file, and changed at random.

Every change takes a convolution's weight (out, in, height, width), or its bias if the change suits biases too, and a
CPU generator. It returns a new tensor. The constants are those of EDSR_distort_imagenet.py and CAE_distort_imagenet.py
in github.com/hendrycks/imagenet-r (Hendrycks et al., ICCV 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...score.storage import read_tensors
from ...without_waiting import send

Weights = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
Change = Callable[[Tensor, Generator], Tensor]
T = TypeVar("T")


def load_weights(path: Path, shapes: Mapping[str, Sequence[int]]) -> Weights:
    """The tensors of a state dict that ``shapes`` names, in float32 on the CPU. OSError if the file does not fit."""
    if not path.is_file():
        raise OSError(f"there are no weights at {path}")
    state = {name.removeprefix("module."): value for name, value in read_tensors(path).items()}
    for name, shape in shapes.items():
        found = tuple(state[name].shape) if name in state else "no such tensor"
        if found != tuple(shape):
            raise OSError(f"the weights of {path} do not fit: {name} must be {tuple(shape)}. Got {found}")
    return {name: state[name] for name in shapes}


def pick(options: Sequence[T], generator: Generator) -> T:
    """One of the options. All are equally likely."""
    return options[int(torch.randint(len(options), (), generator=generator))]


def pick_several(n: int, draws: int, generator: Generator) -> list[int]:
    """``draws`` numbers in 0...n-1, with replacement."""
    return torch.randint(n, (draws,), generator=generator).tolist()


def uniform(shape: Sequence[int], like: Tensor, generator: Generator) -> Tensor:
    """Uniform in [0, 1). The draw is on the CPU, so a seed gives the same numbers on every device."""
    return send(torch.rand(*shape, generator=generator), like.device).to(like.dtype)


def random_signs(shape: Sequence[int], like: Tensor, generator: Generator, positive: float = 0.5) -> Tensor:
    """+1 with probability ``positive``, else -1."""
    return (uniform(shape, like, generator) < positive).to(like) * 2 - 1


def keep(x: Tensor, generator: Generator) -> Tensor:
    return x


def reverse_filters(weight: Tensor, generator: Generator) -> Tensor:
    """Reverse the order of the output channels."""
    return weight.flip(0)


def negate(weight: Tensor, generator: Generator) -> Tensor:
    return -weight


def zero(weight: Tensor, generator: Generator) -> Tensor:
    return torch.zeros_like(weight)


def negative_gelu(weight: Tensor, generator: Generator) -> Tensor:
    """-GELU of each weight, which leaves little of the negative weights."""
    return -F.gelu(weight)


def mirror(weight: Tensor, generator: Generator) -> Tensor:
    """Flip the kernels left to right."""
    return weight.flip(-1)


def times_laplacian_4(weight: Tensor, generator: Generator) -> Tensor:
    """Multiply 3x3 kernels, element by element, by the Laplacian of four neighbours."""
    return weight * weight.new_tensor(((0, 1, 0), (1, -4, 1), (0, 1, 0)))


def times_laplacian_8(weight: Tensor, generator: Generator) -> Tensor:
    """Multiply 3x3 kernels, element by element, by the negative Laplacian of eight neighbours."""
    return weight * weight.new_tensor(((-1, -1, -1), (-1, 8, -1), (-1, -1, -1)))


def stretch(weight: Tensor, generator: Generator, most: float) -> Tensor:
    """Multiply each weight by 1 + most u r. u is uniform in [0, 1] for the layer, r for each weight."""
    u = torch.rand((), generator=generator).item()
    return weight * (1 + most * u * uniform(weight.shape, weight, generator))


def sum_of_shifts(weight: Tensor, generator: Generator) -> Tensor:
    """Replace each kernel of a filter by the sum of its kernels, each shifted by at most 1 and given a random sign."""
    filters = len(weight)
    mix = torch.zeros_like(weight)
    rows, columns = pick_several(3, filters, generator), pick_several(3, filters, generator)
    mix[:, torch.arange(filters), rows, columns] = random_signs((filters,), weight, generator)
    return F.conv2d(weight, mix, padding=1)


def mix_uniform(weight: Tensor, generator: Generator) -> Tensor:
    """Convolve the kernels with (2 u r - 1) / 6. u is uniform in [0, 1] for the layer, r for each mixing weight."""
    u = torch.rand((), generator=generator).item()
    return F.conv2d(weight, (2 * u * uniform(weight.shape, weight, generator) - 1) / 6, padding=1)


def mix_dirichlet(weight: Tensor, generator: Generator) -> Tensor:
    """Convolve the kernels with nearly one-hot 3x3 kernels: Dirichlet draws of concentration 0.1."""
    seed = int(torch.randint(2**31, (), generator=generator))
    # torch's Dirichlet takes no generator, so the CPU's default generator is seeded for this draw and restored.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        kernels = torch.distributions.Dirichlet(torch.full((9,), 0.1)).sample(weight.shape[:2])
    return F.conv2d(weight, kernels.reshape(weight.shape).to(weight), padding=1)


def add_noise(weight: Tensor, generator: Generator) -> Tensor:
    """Add uniform noise in [-0.5, 0.5]."""
    return weight + uniform(weight.shape, weight, generator) - 0.5


def rotate(weight: Tensor, generator: Generator, planes: Sequence[tuple[int, int]]) -> Tensor:
    """Turn by 90, 180 or 270 degrees in one of the planes."""
    turns = pick((1, 2, 3), generator)
    return weight.rot90(turns, pick(planes, generator))


def flip_signs(weight: Tensor, generator: Generator) -> Tensor:
    """Negate each weight with probability 1/2."""
    return weight * random_signs(weight.shape, weight, generator)


def drop_weights(weight: Tensor, generator: Generator) -> Tensor:
    """Zero each weight with probability 1/2."""
    return weight * (uniform(weight.shape, weight, generator) < 0.5)


def negate_filters(weight: Tensor, generator: Generator, divisor: int) -> Tensor:
    """Negate the filters that n // divisor draws with replacement hit, n the number of filters."""
    signs = weight.new_ones(len(weight))
    signs[pick_several(len(weight), len(weight) // divisor, generator)] = -1
    return weight * signs.reshape(-1, 1, 1, 1)


def keep_largest(weight: Tensor, generator: Generator) -> Tensor:
    """Keep the largest weight of each kernel and zero the others."""
    kernels = weight.flatten(2)
    largest = kernels.topk(1)
    return torch.zeros_like(kernels).scatter(2, largest.indices, largest.values).reshape(weight.shape)
