"""What the GPU reaches in a large matrix product, and how much of it in ADM-256's five heaviest convolutions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..harness.records import Record
from ..harness.timing import Methods
from ..imagenet_cost import SIZE, build_unet, denoise
from .settings import Settings
from .timing import cudnn_benchmark, time_methods

SIDE, TINY_SIDE = 8192, 128
HEAVIEST = 5
BATCH = 32
CALLS = 10  # between two waits


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


def measure(settings: Settings) -> Iterator[Record]:
    side, batch, size = (TINY_SIDE, 1, 32) if settings.tiny else (SIDE, BATCH, SIZE)
    operations = count_convolutions(size)
    total = operations.total()
    heaviest = operations.most_common(HEAVIEST)
    share = sum(count for _, count in heaviest) / total
    yield settings.record("five heaviest shapes", "share_of_convolutions", share, n=HEAVIEST, size=size)
    products = {dtype: f"product of {side}, {name_of(dtype)}" for dtype in (torch.bfloat16, torch.float16)}
    methods: Methods = {name: product(side, dtype, settings.device) for dtype, name in products.items()}
    for benchmark in (False, True):
        methods |= {
            name_with(shape, benchmark): convolution(shape, batch, benchmark, settings.device) for shape, _ in heaviest
        }
    taken, failures = time_methods(settings, methods, CALLS)
    yield from failures
    ceilings = {name: 2 * side**3 / median(taken[name]) for name in products.values() if name in taken}
    for name, speed in ceilings.items():
        yield settings.record(name, "matmul_tflops", speed / 1e12, n=settings.rounds)
    ceiling = ceilings.get(products[torch.bfloat16])
    for shape, count in heaviest:
        for benchmark in (False, True):
            if ceiling and (own := taken.get(name_with(shape, benchmark))):
                speed = batch * operations_of(shape) / median(own)
                more = {"batch_size": batch, "share_of_convolutions": count / total, "cudnn_benchmark": benchmark}
                yield settings.record(str(shape), "matmul_share", speed / ceiling, n=settings.rounds, **more)


def count_convolutions(size: int) -> Counter[Convolution]:
    """Operations of ADM-256's convolutions for one image, by shape, found on the meta device by hooks."""
    unet = build_unet()
    found: Counter[Convolution] = Counter()

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        conv: Any = module  # its kernel, stride, padding and maps are square
        square = (conv.kernel_size[0], conv.stride[0], conv.padding[0], inputs[0].shape[-1])
        shape = Convolution(conv.in_channels, conv.out_channels, *square)
        found[shape] += operations_of(shape)

    for module in unet.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    denoise(unet, 1, size)
    return found


def operations_of(shape: Convolution) -> int:
    """For one image; two for each multiplication with its addition."""
    side = (shape.side + 2 * shape.padding - shape.kernel) // shape.stride + 1
    return 2 * shape.inputs * shape.outputs * (shape.kernel * side) ** 2


def product(side: int, dtype: torch.dtype, device: torch.device) -> Callable[[], Tensor]:
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return lambda: a @ b


def convolution(shape: Convolution, batch: int, benchmark: bool, device: torch.device) -> Callable[[], Tensor]:
    """In bfloat16, channels-last. Its tensors are made at the first call, so that a large one fails alone."""
    made: dict[str, Tensor] = {}

    @torch.no_grad()
    def run() -> Tensor:
        if not made:
            maps, kernels = (batch, shape.inputs, *[shape.side] * 2), (shape.outputs, shape.inputs, *[shape.kernel] * 2)
            for name, size in {"input": maps, "weight": kernels}.items():
                tensor = torch.randn(size, device=device, dtype=torch.bfloat16)
                made[name] = tensor.to(memory_format=torch.channels_last)
        with cudnn_benchmark(benchmark):
            return nn.functional.conv2d(made["input"], made["weight"], stride=shape.stride, padding=shape.padding)

    return run


def name_with(shape: Convolution, benchmark: bool) -> str:
    return f"{shape}, cudnn.benchmark" if benchmark else str(shape)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
