"""Time, memory and network calls. Methods take turns in one run, so that a busy machine slows all of them alike.

Each function measures the device that it is given, which need not be the current one.
"""

from __future__ import annotations

import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from statistics import median, stdev
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

Methods = dict[str, Callable[[], Any]]


def time_interleaved(
    methods: Methods, rounds: int, device: torch.device, *, warm_up: int = 2
) -> dict[str, list[float]]:
    """Seconds of each method in each round, after ``warm_up`` calls of each: by CUDA events, or by a CPU's clock."""
    for _ in range(warm_up):
        for method in methods.values():
            method()
    seconds_of = seconds_by_events if device.type == "cuda" else seconds_by_clock
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            taken[name].append(seconds_of(method, device))
    return taken


def seconds_by_events(run: Callable[[], Any], device: torch.device) -> float:
    """From the first to the last operation on the device's current stream."""
    stream = torch.cuda.current_stream(device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    synchronize(device)
    start.record(stream)
    run()
    end.record(stream)
    synchronize(device)
    return start.elapsed_time(end) / 1000


def seconds_by_clock(run: Callable[[], Any], device: torch.device) -> float:
    synchronize(device)
    started = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - started


def several(method: Callable[[], Any], calls: int) -> Callable[[], None]:
    """``calls`` calls of a short method as one, so that they share one wait for the device."""

    def run() -> None:
        for _ in range(calls):
            method()

    return run


def synchronize(device: torch.device) -> None:
    """Wait for a GPU. A CPU has finished already."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(times: list[float], reference: list[float]) -> tuple[float, float | None]:
    """Median over rounds of the ratio within a round, and its standard error if there are several rounds."""
    ratios = [value / other for value, other in zip(times, reference)]
    return median(ratios), stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else None


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """The most memory that the tensors which ``run`` makes hold at once, by torch's allocators."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    events.sort(key=lambda event: event["ts"])
    return max(accumulate(event["args"]["Bytes"] for event in events))


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


def count_calls(unet: nn.Module, run: Callable[[], Any]) -> tuple[int, int]:
    """How many images a U-Net sees forwards, and how many backwards, while ``run`` runs."""
    forward = backward = 0

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal forward, backward
        forward += len(inputs[0])
        backward += len(inputs[0]) * inputs[0].requires_grad

    handle = unet.register_forward_pre_hook(before)
    run()
    handle.remove()
    return forward, backward
