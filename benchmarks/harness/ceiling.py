"""What a machine reaches in large matrix products, which shares are of, and in single convolutions.

On a GPU the product is a ceiling. On a CPU convolutions may be faster: 0.23 against 0.20 TFLOP/s, one core, bfloat16.

Each measurement is several calls that share one wait for the device, and the number of their operations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .timing import cudnn_benchmark, several

#: The side of the matrices, by device. Smaller products do not fill a large GPU.
SIDES = {"cuda": 8192, "cpu": 2048}
#: Products, or convolutions, between two waits.
CALLS = {"cuda": 10, "cpu": 3}
HEAVIEST = 5


class Work(NamedTuple):
    """A method to time, and how many operations it does: two for each multiplication with its addition."""

    run: Callable[[], Any]
    operations: int

    def speed(self, seconds: list[float]) -> float:
        """Operations a second, from the median."""
        return self.operations / median(seconds)


class Convolution(NamedTuple):
    """The shape of a convolution: channels, kernel, stride, padding and the side of the map that it takes."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    side: int

    def __str__(self) -> str:
        return f"{self.inputs} to {self.outputs} channels, {self.kernel}x{self.kernel}, {self.side} pixels"


def products(side: int, dtype: torch.dtype, device: torch.device) -> Work:
    """Products of two square matrices."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    calls = CALLS[device.type]
    return Work(several(lambda: a @ b, calls), calls * 2 * side**3)


def convolutions(
    shape: Convolution, batch: int, dtype: torch.dtype, device: torch.device, *, benchmark: bool = False
) -> Work:
    """Convolutions of one shape, channels-last. Tensors are made at the first call, so a too large one fails alone."""
    made: dict[str, Tensor] = {}

    @torch.no_grad()
    def run() -> Tensor:
        if not made:
            maps, kernels = (batch, shape.inputs, *[shape.side] * 2), (shape.outputs, shape.inputs, *[shape.kernel] * 2)
            for name, size in {"input": maps, "weight": kernels}.items():
                made[name] = torch.randn(size, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        with cudnn_benchmark(benchmark):
            return nn.functional.conv2d(made["input"], made["weight"], stride=shape.stride, padding=shape.padding)

    calls = CALLS[device.type]
    return Work(several(run, calls), calls * batch * operations_of(shape))


def operations_of(shape: Convolution) -> int:
    """For one image."""
    side = (shape.side + 2 * shape.padding - shape.kernel) // shape.stride + 1
    return 2 * shape.inputs * shape.outputs * (shape.kernel * side) ** 2


def count_convolutions(unet: nn.Module, run: Callable[[], Any]) -> Counter[Convolution]:
    """Operations of a U-Net's convolutions for one image, by shape, found by hooks while ``run`` runs."""
    found: Counter[Convolution] = Counter()

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        conv: Any = module  # its kernel, stride, padding and maps are square
        square = (conv.kernel_size[0], conv.stride[0], conv.padding[0], inputs[0].shape[-1])
        shape = Convolution(conv.in_channels, conv.out_channels, *square)
        found[shape] += operations_of(shape)

    hooks = [m.register_forward_hook(count) for m in unet.modules() if isinstance(m, nn.Conv2d)]
    run()
    for hook in hooks:
        hook.remove()
    return found


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
