"""Seconds by CUDA events on the GPU, by the clock on a CPU. Methods take turns; one that fails is left out."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch

from ..harness.records import Record
from ..harness.timing import Methods, ratio, time_interleaved
from .settings import Settings

#: Calls before the clock starts. CUDA graphs need one to warm up, one to record and one to replay.
WARM_UP = 3


def time_methods(
    settings: Settings, methods: Methods, calls: int = 1, **more: Any
) -> tuple[dict[str, list[float]], list[Record]]:
    """Seconds of one call of each method in each round, and a record for each method that failed.

    Args:
        calls: of a method between two events, so that several calls share one wait for the device.
        more: fields of the records.
    """
    working: Methods = {}
    failures = []
    for name, method in methods.items():
        try:
            for _ in range(WARM_UP):
                method()
            wait(settings.device)
            working[name] = method
        except Exception as error:
            failures.append(settings.failed(name, error, **more))
            free(settings.device)
    timed = _events if settings.device.type == "cuda" else _clock
    return timed(working, settings.rounds, settings.device, calls), failures


def _events(methods: Methods, rounds: int, device: torch.device, calls: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(calls):
                method()
            end.record()
            wait(device)
            taken[name].append(start.elapsed_time(end) / 1000 / calls)
    return taken


def _clock(methods: Methods, rounds: int, device: torch.device, calls: int) -> dict[str, list[float]]:
    def several(name: str) -> None:
        for _ in range(calls):
            methods[name]()

    repeated: Methods = {name: lambda name=name: several(name) for name in methods}  # type: ignore[misc]
    taken = time_interleaved(repeated, rounds, device)
    return {name: [seconds / calls for seconds in own] for name, own in taken.items()}


def speed_records(settings: Settings, taken: dict[str, list[float]], images: int, **more: Any) -> list[Record]:
    """Images a second of each method: the median over the rounds."""
    return [
        settings.record(name, "images_per_second", images / median(own), n=len(own), **more)
        for name, own in taken.items()
    ]


def ratio_record(
    settings: Settings, taken: dict[str, list[float]], name: str, reference: str, at_most: float | None, **more: Any
) -> list[Record]:
    """The time of one method over that of another: the median of the rounds' ratios. None if one of them failed."""
    if name not in taken or reference not in taken:
        return []
    value, error = ratio(taken[name], taken[reference])
    more |= {"standard_error": error, "n": len(taken[name])}
    return [settings.record(f"{name} over {reference}", "time_ratio", value, at_most=at_most, **more)]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free(device: torch.device) -> None:
    """Give cached memory back, so that one method's does not count against the next."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def cudnn_benchmark(enabled: bool = True) -> Iterator[None]:
    """cuDNN tries its algorithms for each new shape, as the authors' scripts let it."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = enabled
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
