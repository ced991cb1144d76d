"""Runs that fail, or whose process ends, before each change that they make to a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..harness.records import Record
from .augmenting import Augmenting
from .checkpointing import Checkpointing
from .children import last_line, run_to_end
from .injection import FAULTS, count_changes, inject
from .saving import all_savings
from .settings import Settings, Tally
from .works import Work, judge

CRASHES = ("an error", "the process ends")
#: From a run's exit code and log to what is wrong with its end, "" if nothing is.
JudgeEnd = Callable[[int, Path], str]


def measure(settings: Settings) -> Iterator[Record]:
    yield from inject_everywhere(settings, all_works(settings), "crashes", CRASHES, lambda code, log: "")


def all_works(settings: Settings) -> list[Work]:
    root = settings.folder / "works"
    root.mkdir()
    pictures = settings.choose(8, 2)
    augmenting = [Augmenting(root / "folder", pictures), Augmenting(root / "tars", pictures, 2)]
    return [*augmenting, Checkpointing(root / "checkpointing"), *all_savings(root)]


def inject_everywhere(
    settings: Settings, works: Sequence[Work], part: str, faults: Sequence[str], judge_end: JudgeEnd
) -> Iterator[Record]:
    """Each fault at each change of each work, in random order, until no time is left."""
    pieces = [(work, fault) for work in works for fault in faults]
    for (work, fault), by in zip(pieces, settings.ends(len(pieces))):
        root = settings.folder / f"{work.name}; {fault}"
        root.mkdir()
        changes = number_of_changes(work, root / "counted")
        places = settings.random(root.name).sample(range(changes), settings.choose(changes, min(2, changes)))
        tally = Tally(part, root.name)
        for place in places:
            if tally.injected and time.monotonic() > by:
                break
            tally.add(inject_one(work, root / str(place), place, fault, judge_end))
        yield from tally.records(changes=changes)


def number_of_changes(work: Work, folder: Path) -> int:
    """How many changes an undisturbed run makes in its folder."""
    log, result = folder.with_suffix(".log"), folder.with_suffix(".txt")
    work.prepare(folder)
    if run_to_end(lambda: count_changes(folder, lambda: work.run(folder), result), log):
        raise RuntimeError(f"an undisturbed run failed: {last_line(log)}")
    return int(result.read_text())


def inject_one(work: Work, folder: Path, place: int, fault: str, judge_end: JudgeEnd) -> str:
    """A fault at one change. Returns what is wrong afterwards, "" if nothing is."""
    log = folder.with_suffix(".log")

    def run() -> int | None:
        inject(folder, place, FAULTS[fault])
        return work.run(folder)

    work.prepare(folder)
    code = run_to_end(run, log)
    wrong = judge_end(code, log) or judge(work, folder, code, log)
    return f"at change {place}: {wrong}" if wrong else ""
