"""Disks that are full or read-only: as errors at each change of a file, and, if mounting is allowed, as they are."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..harness.records import Record
from .children import FAILED, last_line, run_to_end
from .crashes import all_works, inject_everywhere
from .settings import Settings, Tally
from .works import Work, files_of, finish, judge

FAULTS = ("the disk is full", "the disk is read-only")
#: Bytes of a large disk, and of the pages that files take.
ROOM, PAGE = 2**26, 4096


def measure(settings: Settings) -> Iterator[Record]:
    works = all_works(settings)
    half = settings.end - (settings.end - time.monotonic()) / 2
    injecting = Settings(settings.folder, half, settings.tiny, settings.seed)
    yield from inject_everywhere(injecting, works, "disks", FAULTS, refusal)
    if can_mount(settings.folder / "tried"):
        yield from mounted(settings, works)


def refusal(code: int, log: Path) -> str:
    """What is wrong with how a run ended. It must say an OSError in one sentence, unless it did its work."""
    if code == 0 or (code != FAILED and "Traceback" not in log.read_text()):
        return ""
    return f"no clear error, code {code}: {last_line(log)}"


def mounted(settings: Settings, works: Sequence[Work]) -> Iterator[Record]:
    """Runs on disks of their own, in memory: too small ones, and ones that become read-only."""
    pieces = [(work, fault) for work in works for fault in (fill, forbid)]
    for (work, fault), by in zip(pieces, settings.ends(len(pieces))):
        tally = Tally("disks", f"{work.name}; a {'small' if fault is fill else 'read-only'} disk")
        choose, root = settings.random(tally.method), settings.folder / tally.method
        root.mkdir()
        needed = bytes_of(work, root / "whole")
        while tally.injected < settings.choose(40, 1) and (not tally.injected or time.monotonic() < by):
            with disk(root / "disk") as place:
                wrong = fault(work, place, int(choose.random() * needed), root / f"{tally.injected}.log")
                tally.add(wrong)
        yield from tally.records()


def bytes_of(work: Work, folder: Path) -> int:
    """What the files of an undisturbed run take on a disk."""
    work.prepare(folder)
    if fault := finish(work, folder, folder.with_suffix(".log")):
        raise RuntimeError(fault)
    return sum(PAGE * -(-len(data) // PAGE) for data in files_of(folder).values())


def fill(work: Work, place: Path, room: int, log: Path) -> str:
    """A run on a disk with so little room, then one on a large disk. Returns what is wrong, "" if nothing is."""
    folder = place / "out"
    work.prepare(folder)
    remount(place, f"size={shutil.disk_usage(place).used + room}")
    code = run_to_end(lambda: work.run(folder), log)
    remount(place, f"size={ROOM}")
    return refusal(code, log) or judge(work, folder, code, log)


def forbid(work: Work, place: Path, room: int, log: Path) -> str:
    """A disk gets full, then read-only, then neither. Returns what is wrong, "" if nothing is."""
    folder = place / "out"
    work.prepare(folder)
    remount(place, f"size={shutil.disk_usage(place).used + room}")
    run_to_end(lambda: work.run(folder), log)
    before = files_of(folder)
    remount(place, f"ro,size={ROOM}")
    code = run_to_end(lambda: work.run(folder), log)
    remount(place, f"rw,size={ROOM}")
    if files_of(folder) != before:
        return "a read-only disk has changed"
    return refusal(code, log) or judge(work, folder, code, log)


def can_mount(place: Path) -> bool:
    """Whether this process may mount disks in memory: on Linux as root."""
    try:
        with disk(place):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def disk(place: Path) -> Iterator[Path]:
    """A disk in memory at ``place``."""
    place.mkdir(exist_ok=True)
    mount("-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    mount("-o", f"remount,{options}", str(place))


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
