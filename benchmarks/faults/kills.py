"""Runs that are killed at random moments, again and again, until one comes to its end."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..harness.records import Record
from .augmenting import Augmenting
from .children import end, start
from .settings import Settings, Tally
from .training import Training
from .works import judge

SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
Killed = Augmenting | Training
#: The most kills before a run is left alone.
KILLS_IN_A_ROW = 4


def measure(settings: Settings) -> Iterator[Record]:
    pictures = settings.choose(32, 8)
    kills: dict[Killed, int] = {
        Augmenting(settings.folder / "folder", pictures): settings.choose(80, 2),
        Augmenting(settings.folder / "tars", pictures, pictures // 4): settings.choose(30, 1),
        Training(settings.folder / "training", settings.choose(8, 4)): settings.choose(30, 1),
    }
    pieces = [(work, number) for work in kills for number in SIGNALS]
    for (work, number), by in zip(pieces, settings.ends(len(pieces))):
        yield from kill_many(work, number, kills[work], settings, by).records()


def kill_many(work: Killed, number: signal.Signals, kills: int, settings: Settings, by: float) -> Tally:
    """Kill runs until there are so many kills, or no time is left."""
    tally = Tally("kills", f"{work.name}; {number.name}")
    choose = settings.random(tally.method)
    root = settings.folder / f"{work.name} {number.name}"
    root.mkdir()
    while tally.injected < kills and (not tally.injected or time.monotonic() < by):
        folder = root / f"from {tally.injected}"
        killed, fault = kill_some(work, folder, number, choose, min(KILLS_IN_A_ROW, kills - tally.injected))
        tally.add(fault, killed)
    return tally


def kill_some(work: Killed, folder: Path, number: signal.Signals, choose: random.Random, most: int) -> tuple[int, str]:
    """Kill runs on one folder up to so many times, then let one come to its end.

    Returns:
        How many runs were killed before their end, and what was wrong, "" if nothing was.
    """
    log = folder.with_suffix(".log")
    work.prepare(folder)
    killed, code = 0, -1
    for _ in range(choose.randint(1, most)):
        code = kill_one(work, folder, number, choose.uniform(0, work.seconds), log)
        if code == 0:  # it came to its end before
            break
        killed += 1
        if fault := work.fault_when_stopped(folder):
            return killed, fault
    return killed, judge(work, folder, code, log)


def kill_one(work: Killed, folder: Path, number: signal.Signals, seconds: float, log: Path) -> int:
    """Start a run and send it a signal after so many seconds. Returns its exit code."""
    pid = start(lambda: work.run(folder), log)
    time.sleep(seconds)
    with suppress(ProcessLookupError):
        os.kill(pid, number)
    return end(pid)
