"""What the GPU reaches in a large matrix product, and how much of it in ADM-256's five heaviest convolutions."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..harness.ceiling import HEAVIEST, Convolution, convolutions, count_convolutions, dtype_name, products
from ..harness.records import Record
from ..imagenet_cost import SIZE, build_unet, denoise
from .settings import Settings
from .timing import time_methods

BATCH = 32


def measure(settings: Settings) -> Iterator[Record]:
    batch, size = (1, 32) if settings.tiny else (BATCH, SIZE)
    unet = build_unet()  # on the meta device, which computes no number
    operations = count_convolutions(unet, lambda: denoise(unet, 1, size))
    heaviest = operations.most_common(HEAVIEST)
    share = sum(count for _, count in heaviest) / operations.total()
    yield settings.record("five heaviest shapes", "share_of_convolutions", share, n=HEAVIEST, size=size)
    names = {dtype: f"product of {settings.side}, {dtype_name(dtype)}" for dtype in (torch.bfloat16, torch.float16)}
    works = {name: products(settings.side, dtype, settings.device) for dtype, name in names.items()}
    for benchmark in (False, True):
        for shape, _ in heaviest:
            work = convolutions(shape, batch, torch.bfloat16, settings.device, benchmark=benchmark)
            works[name_with(shape, benchmark)] = work
    taken, failures = time_methods(settings, {name: work.run for name, work in works.items()})
    yield from failures
    speeds = {name: works[name].speed(seconds) for name, seconds in taken.items()}
    for name in names.values():
        if name in speeds:
            yield settings.record(name, "matmul_tflops", speeds[name] / 1e12, n=settings.rounds)
    ceiling = speeds.get(names[torch.bfloat16])
    for shape, count in heaviest:
        for benchmark in (False, True):
            if ceiling and (speed := speeds.get(name_with(shape, benchmark))):
                more = {"batch_size": batch, "share_of_convolutions": count / operations.total()}
                more["cudnn_benchmark"] = benchmark
                yield settings.record(str(shape), "matmul_share", speed / ceiling, n=settings.rounds, **more)


def name_with(shape: Convolution, benchmark: bool) -> str:
    return f"{shape}, cudnn.benchmark" if benchmark else str(shape)
