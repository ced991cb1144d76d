"""Records of speed, and of the ratio of two methods. A method that fails is left out and leaves a record."""

from __future__ import annotations

from statistics import median
from typing import Any

from ..harness.records import Record
from ..harness.timing import Methods, free, ratio, synchronize, time_interleaved
from .settings import Settings

#: Calls before the clock starts. CUDA graphs need one to warm up, one to record and one to replay.
WARM_UP = 3


def time_methods(settings: Settings, methods: Methods, **more: Any) -> tuple[dict[str, list[float]], list[Record]]:
    """Seconds of each method in each round, and a record with the fields ``more`` for each method that failed."""
    working: Methods = {}
    failures = []
    for name, method in methods.items():
        try:
            for _ in range(WARM_UP):
                method()
            synchronize(settings.device)
            working[name] = method
        except Exception as error:
            failures.append(settings.failed(name, error, **more))
            free(settings.device)
    return time_interleaved(working, settings.rounds, settings.device, warm_up=0), failures


def speed_records(settings: Settings, taken: dict[str, list[float]], images: int, **more: Any) -> list[Record]:
    """Images a second of each method: the median over the rounds, each of ``images`` images."""
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
