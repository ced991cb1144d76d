"""Time, memory and network calls. Methods take turns in one run, so that a busy machine slows all of them alike."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from statistics import median, stdev
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

Methods = dict[str, Callable[[], Any]]


def time_interleaved(methods: Methods, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each method in each round, after two calls of each to warm up."""
    for method in (*methods.values(), *methods.values()):
        method()
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            synchronize(device)
            started = time.perf_counter()
            method()
            synchronize(device)
            taken[name].append(time.perf_counter() - started)
    return taken


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def ratio(times: list[float], reference: list[float]) -> tuple[float, float | None]:
    """Median over rounds of the ratio within a round, and its standard error if there are several rounds."""
    ratios = [value / other for value, other in zip(times, reference)]
    return median(ratios), stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else None


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """The most memory that the tensors which ``run`` makes hold at once, by torch's allocators."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    events.sort(key=lambda event: event["ts"])
    return max(accumulate(event["args"]["Bytes"] for event in events))


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
