"""An autocast around a denoiser changes nothing: the same bits, the same number of kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from diffaug_transforms.score import Denoiser

from ..harness.data import side_of
from ..harness.records import Record
from ..harness.timing import free, synchronize
from .adm256 import SIZE, TINY_SIZE
from .settings import Settings

BATCH = 4
OUTER = (torch.float16, torch.bfloat16)


def measure(settings: Settings) -> Iterator[Record]:
    own = Denoiser(settings.network)
    size = side_of(own.network)
    yield from compare(settings, own, f"{settings.network}, default dtype", size)
    yield from compare(settings, Denoiser(settings.network, dtype=torch.float32), f"{settings.network}, float32", size)
    large = Denoiser(settings.adm256(), dtype=torch.bfloat16)
    yield from compare(settings, large, "ADM-256, bfloat16", TINY_SIZE if settings.tiny else SIZE)


def compare(settings: Settings, denoiser: Denoiser, name: str, size: int) -> Iterator[Record]:
    """With each outer autocast against without. The call is repeated without, to see that it gives the same bits."""
    images = torch.rand(BATCH, 3, size, size, device=settings.device)
    noise = torch.randn_like(images)
    low, high = denoiser.augment_timesteps[0], denoiser.augment_timesteps[-1]
    timesteps = torch.linspace(low, high, BATCH, device=settings.device).long()

    def call() -> Tensor:
        return denoiser(images, timesteps, noise)

    def under(dtype: torch.dtype) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.autocast(settings.device.type, dtype):
                return call()

        return run

    expected = call()
    count_kernels(call, settings.device)  # the profiler's first run may miss some
    alone = count_kernels(call, settings.device)
    yield settings.record(f"{name}, alone", "kernels", alone, n=1)
    runs = {"again": call, **{f"{str(d).removeprefix('torch.')} autocast": under(d) for d in OUTER}}
    for outer, run in runs.items():
        changed = int((run() != expected).sum())
        yield settings.record(f"{name}, {outer}", "changed_values", changed, at_most=0, n=expected.numel())
        kernels = count_kernels(run, settings.device)
        yield settings.record(f"{name}, {outer}", "kernels", kernels, at_most=alone, n=1)
    free(settings.device)


def count_kernels(run: Callable[[], Any], device: torch.device) -> int:
    """Kernels, copies and fills on the GPU in one call; on a CPU, torch's operators."""
    on_gpu = device.type == "cuda"
    run()
    synchronize(device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        run()
        synchronize(device)
    kind: Any = DeviceType.CUDA if on_gpu else DeviceType.CPU
    return sum(event.device_type == kind for event in profiler.events() or ())
