"""Two runs that write to one folder at once, and two of which one is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..harness.records import Record
from .augmenting import Augmenting
from .children import REFUSED, end, last_line, start
from .crashes import all_works
from .settings import Settings, Tally
from .training import Training
from .works import Work, judge


def measure(settings: Settings) -> Iterator[Record]:
    works: list[Work] = [work for work in all_works(settings) if work.name != "checkpoint"]  # has no lock of its own
    if not settings.tiny:
        works.append(Training(settings.folder / "training", 4))
    pairs = settings.choose(30, 1)
    pieces = [(work, False) for work in works]
    pieces += [(work, True) for work in works if isinstance(work, Augmenting | Training)]  # others are too short
    for (work, kill), by in zip(pieces, settings.ends(len(pieces))):
        yield from pair_many(work, kill, pairs, settings, by).records()


def pair_many(work: Work, kill: bool, pairs: int, settings: Settings, by: float) -> Tally:
    """Pairs of runs, until there are so many or no time is left."""
    tally = Tally("pairs", f"{work.name}; two at once{', one killed' if kill else ''}")
    choose, root = settings.random(tally.method), settings.folder / tally.method
    root.mkdir()
    while tally.injected < pairs and (not tally.injected or time.monotonic() < by):
        folder = root / str(tally.injected)
        killed_after = choose.uniform(0, getattr(work, "seconds", 0)) if kill else None
        tally.add(pair(work, folder, choose.uniform(0, 0.1), killed_after))
    return tally


def pair(work: Work, folder: Path, delay: float, killed_after: float | None) -> str:
    """Two runs, the second after ``delay`` seconds; one may be killed. Returns what is wrong, "" if nothing is."""
    logs = [folder.with_suffix(f".{i}.log") for i in range(2)]
    work.prepare(folder)
    first = start(lambda: work.run(folder), logs[0])
    time.sleep(delay)
    second = start(lambda: work.run(folder), logs[1])
    if killed_after is not None:
        time.sleep(killed_after)
        with suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
    codes = [end(first), end(second)]
    for code, log in zip(codes, logs):
        if code not in (0, REFUSED, -signal.SIGKILL):
            return f"a run ended with code {code}: {last_line(log)}"
    if killed_after is None and 0 not in codes:
        return f"no run did its work: {last_line(logs[0])}; {last_line(logs[1])}"
    # The unfinished file of a run that was killed beside another one is removed by the next run.
    return judge(work, folder, 0 if killed_after is None else codes[0], logs[0])
