"""A compressive autoencoder with randomly corrupted weights and a randomly distorted code.

The network (after Theis et al., ICLR 2017), the corruptions and their probabilities are those of
CAE_Model/cae_32x32x32_zero_pad_bin.py and CAE_distort_imagenet.py in github.com/hendrycks/imagenet-r (Hendrycks et
al., ICCV 2021). Its code has 32 bits for every 4x4 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...without_waiting import send
from . import weights as change
from .weights import Change, Shapes, Weights, keep, load_weights, pick, pick_several, random_signs, uniform

#: Weight shapes in the order of the network. The two transposed convolutions have their outputs second.
LAYERS: Shapes = {
    "e_conv_1.1": (64, 3, 5, 5),
    "e_conv_2.1": (128, 64, 5, 5),
    **{f"e_block_{block}.{i}": (128, 128, 3, 3) for block in (1, 2, 3) for i in (1, 4)},
    "e_conv_3.0": (32, 128, 5, 5),
    "d_up_conv_1.0": (64, 32, 3, 3),
    "d_up_conv_1.3": (64, 128, 2, 2),
    **{f"d_block_{block}.{i}": (128, 128, 3, 3) for block in (1, 2, 3) for i in (1, 4)},
    "d_up_conv_2.0": (32, 128, 3, 3),
    "d_up_conv_2.3": (32, 256, 2, 2),
    "d_up_conv_3.0": (16, 256, 3, 3),
    "d_up_conv_3.3": (3, 16, 3, 3),
}
TRANSPOSED = ("d_up_conv_1.3", "d_up_conv_2.3")

#: Takes a layer's weight and bias, and a generator. Returns the new weight and bias.
LayerChange = Callable[[Tensor, Tensor, Generator], tuple[Tensor, Tensor]]


def cae_shapes() -> Shapes:
    """Name -> shape of every tensor. The names are the original's."""
    shapes = {f"{name}.weight": shape for name, shape in LAYERS.items()}
    return shapes | {f"{name}.bias": (shape[name in TRANSPOSED],) for name, shape in LAYERS.items()}


def load_cae(path: Path) -> Weights:
    return load_weights(path, cae_shapes())


def weight_alone(make: Change, weight: Tensor, bias: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    return make(weight, generator), bias


def weight_and_bias(make: Change, weight: Tensor, bias: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    return make(weight, generator), make(bias, generator)


def some_filters(make: Change, draws: int, weight: Tensor, bias: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Change filters drawn one after the other, with replacement. A filter drawn twice is changed twice."""
    weight, bias = weight.clone(), bias.clone()
    for k in pick_several(len(weight), draws, generator):
        weight[k], bias[k] = make(weight[k], generator), make(bias[k], generator)
    return weight, bias


def random_mask(weight: Tensor, generator: Generator) -> Tensor:
    """Zero half of the weights or negate half of them, each with probability 1/2."""
    return pick((change.drop_weights, change.flip_signs), generator)(weight, generator)


#: Layers by their index in LAYERS, how many of them are drawn with replacement, and the change. One row is drawn per
#: network. The first row changes one layer: the original draws two, and reverses the second one's weight twice.
CAE_CORRUPTIONS: tuple[tuple[range, int, LayerChange], ...] = (
    (range(11, 16), 1, partial(weight_and_bias, change.reverse_filters)),
    (range(8, 14), 1, partial(some_filters, change.negate, 12)),
    (range(8, 14), 1, partial(some_filters, change.zero, 25)),
    (range(10, 14), 1, partial(some_filters, change.negative_gelu, 25)),
    (range(8, 14), 2, partial(weight_alone, partial(change.stretch, most=8))),
    (range(8, 14), 1, partial(weight_alone, random_mask)),
    (range(8, 14), 1, partial(weight_alone, partial(change.rotate, planes=((2, 3),)))),
    (range(8, 14), 1, partial(weight_alone, partial(change.negate_filters, divisor=5))),
)


def corrupt_cae_weights(weights: Weights, generator: Generator) -> Weights:
    """Apply one row of the table. The tensors passed in stay as they were."""
    layers, draws, make = pick(CAE_CORRUPTIONS, generator)
    weights, names = dict(weights), list(LAYERS)
    for name in [names[pick(layers, generator)] for _ in range(draws)]:
        keys = (f"{name}.weight", f"{name}.bias")
        weights.update(zip(keys, make(weights[keys[0]], weights[keys[1]], generator)))
    return weights


def stretch_bits(bits: Tensor, generator: Generator) -> Tensor:
    """Multiply each bit by 3 + 4 u r. u is uniform in [0, 1] for the image, r for each bit."""
    u = torch.rand((), generator=generator).item()
    return bits * (3 + 4 * u * uniform(bits.shape, bits, generator))


def drop_pixels(code: Tensor, generator: Generator) -> Tensor:
    """Zero each pixel, in all channels, with probability 0.2."""
    return code * (uniform(code.shape[2:], code, generator) >= 0.2)


def negate_pixels(code: Tensor, generator: Generator) -> Tensor:
    """Negate each pixel, in all channels, with probability 0.1."""
    return code * random_signs(code.shape[2:], code, generator, positive=0.9)


def permute_channels(code: Tensor, generator: Generator) -> Tensor:
    """Shuffle the first ten channels."""
    order = torch.cat([torch.randperm(10, generator=generator), torch.arange(10, code.shape[1])])
    return code[:, send(order, code.device)]


def flip_channels(code: Tensor, generator: Generator) -> Tensor:
    """Turn five channels, drawn with replacement, upside down, left to right, or both."""
    code, axes = code.clone(), pick(((-2,), (-1,), (-2, -1)), generator)
    for channel in pick_several(code.shape[1], 5, generator):
        code[:, channel] = code[:, channel].flip(axes)
    return code


def flip_code(code: Tensor, generator: Generator) -> Tensor:
    """Turn all channels upside down, left to right, or both."""
    return code.flip(pick(((-2,), (-1,), (-2, -1)), generator))


def identity_kernel(channels: int) -> Tensor:
    """The 3x3 convolution that changes nothing, on the CPU."""
    kernel = torch.zeros(channels, channels, 3, 3)
    kernel[range(channels), range(channels), 1, 1] = 1
    return kernel


def convolve_code(code: Tensor, kernel: Tensor) -> Tensor:
    return F.conv2d(code, send(kernel, code.device), padding=1)


def mix_channels(code: Tensor, generator: Generator) -> Tensor:
    """Convolve with the identity plus uniform noise in [-0.1, 0.1]."""
    kernel = identity_kernel(code.shape[1])
    return convolve_code(code, kernel + 0.2 * (uniform(kernel.shape, kernel, generator) - 0.5))


def add_channels(code: Tensor, generator: Generator) -> Tensor:
    """Add to each channel, with probability 1/2, another channel shifted by at most 1."""
    channels = code.shape[1]
    kernel = identity_kernel(channels)
    for channel in range(channels):
        if torch.rand((), generator=generator) < 0.5:
            other, (row, column) = pick(range(channels), generator), pick_several(3, 2, generator)
            kernel[channel, other, row, column] = 1
    return convolve_code(code, kernel)


def shift_channels(code: Tensor, generator: Generator) -> Tensor:
    """Shift channels by at most 1. With probability 0.2 a channel draws its own shift, else it takes the last one."""
    channels = code.shape[1]
    kernel = torch.zeros(channels, channels, 3, 3)
    row, column = pick_several(3, 2, generator)
    for channel in range(channels):
        if torch.rand((), generator=generator) < 0.2:
            row, column = pick_several(3, 2, generator)
        kernel[channel, channel, row, column] = 1
    return convolve_code(code, kernel)


#: A change before the code becomes bits, and one after. One row is drawn per image.
CODE_DISTORTIONS: Sequence[tuple[Change, Change]] = (
    (keep, stretch_bits),
    (drop_pixels, keep),
    (negate_pixels, keep),
    (permute_channels, keep),
    (flip_channels, keep),
    (flip_code, keep),
    (mix_channels, keep),
    (add_channels, keep),
    (shift_channels, keep),
)


def convolve(x: Tensor, weights: Weights, name: str, **options: int) -> Tensor:
    return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **options)


def halve(x: Tensor, weights: Weights, name: str) -> Tensor:
    return F.leaky_relu(convolve(F.pad(x, (1, 2, 1, 2)), weights, name, stride=2))


def residual_blocks(x: Tensor, weights: Weights, names: str) -> Tensor:
    for block in (1, 2, 3):
        inside = F.leaky_relu(convolve(x, weights, f"{names}_{block}.1", padding=1))
        x = x + convolve(inside, weights, f"{names}_{block}.4", padding=1)
    return x


def double(x: Tensor, weights: Weights, name: str) -> Tensor:
    """Convolve without padding, then pad with zeros: the network was trained with this border. Double the size."""
    x = F.pad(F.leaky_relu(convolve(x, weights, f"{name}.0")), (1, 1, 1, 1))
    return F.conv_transpose2d(x, weights[f"{name}.3.weight"], weights[f"{name}.3.bias"], stride=2)


def encode(image: Tensor, weights: Weights) -> Tensor:
    """The code, (1, 32, about H/4, about W/4) in [-1, 1]."""
    x = halve(halve(image, weights, "e_conv_1.1"), weights, "e_conv_2.1")
    return torch.tanh(convolve(residual_blocks(x, weights, "e_block"), weights, "e_conv_3.0", padding=2))


def binarize(code: Tensor, generator: Generator) -> Tensor:
    """1 with probability (1 + code) / 2, else 0 (Toderici et al. 2016, eq. 2)."""
    return (uniform(code.shape, code, generator) <= (1 + code) / 2).to(code)


def decode(bits: Tensor, weights: Weights) -> Tensor:
    x = residual_blocks(double(2 * bits - 1, weights, "d_up_conv_1"), weights, "d_block")
    x = F.leaky_relu(convolve(double(x, weights, "d_up_conv_2"), weights, "d_up_conv_3.0"))
    return torch.tanh(convolve(F.pad(x, (2, 2, 2, 2), mode="reflect"), weights, "d_up_conv_3.3"))


def cae(image: Tensor, weights: Weights, generator: Generator) -> Tensor:
    """Encode, distort and decode a (1, 3, H, W) image in [0, 1]. The result is clipped; its sides are multiples of 4.

    ``generator`` draws the distortion and the bits.
    """
    before, after = pick(CODE_DISTORTIONS, generator)
    bits = binarize(before(encode(image, weights), generator), generator)
    return decode(after(bits, generator), weights).clamp(0, 1)
