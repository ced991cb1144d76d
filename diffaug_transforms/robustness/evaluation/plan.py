"""What a run will cost: its network calls, and its time by one call of the network and of the classifier."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...arguments import counted
from ...score import Denoiser
from .answers import log_probabilities
from .judging import Part
from .modes import Views

#: A call with its backward pass takes as long as so many calls.
WITH_BACKWARD = 3


def describe_plan(
    missing: Sequence[Part],
    parts: int,
    views: Sequence[Views],
    denoiser: Denoiser | None,
    classifier: nn.Module,
    images: Tensor,
    processes: int,
) -> str:
    """Two lines for people: what is to do, and about how long it takes.

    Args:
        missing: the parts that are not kept from an earlier run.
        parts: how many there are in all.
        images: a batch (B, 3, H, W) in [0, 1] to time one call with.
    """
    number = sum(map(len, missing))
    height, width = images.shape[-2:]
    kept = f", {parts - len(missing)} of {parts} parts are kept from an earlier run" if len(missing) < parts else ""
    first = f"{counted(number, 'image')} of {width}x{height} pixels in {counted(len(missing), 'part')}{kept}"
    if not missing:
        return f"All {parts} parts are kept from an earlier run"
    own = seconds_of(lambda: log_probabilities(classifier, images), images.device) / len(images)
    seconds = number * own * (1 + sum(len(one.steps) for one in views))
    costs = []
    if denoiser is not None:
        t = torch.full((len(images),), max(step for one in views for step in one.steps), device=images.device)
        call = seconds_of(lambda: denoiser(images, t, torch.zeros_like(images)), images.device) / len(images)
        for one in views:
            passes = f" and as many backward passes ({one.kind})" if one.backward else f" ({one.kind})"
            most = "at most " if one.calls_of is not None else ""
            costs.append(f"{most}{counted(number * one.calls, 'network call')}{passes}")
            seconds += number * one.calls * call * (WITH_BACKWARD if one.backward else 1)
    device = f"{processes} devices" if processes > 1 else str(images.device)
    costs.append(f"about {in_words(seconds / processes)} on {device}")
    return f"{first}\n{', '.join(costs)}"


def seconds_of(run: Callable[[], Any], device: torch.device) -> float:
    """Of the second call: the first one loads and prepares."""
    run()
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
