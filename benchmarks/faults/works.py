"""What can be stopped: a run that writes files, and what must hold of them after a fault and at the end."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from pathlib import Path
from typing import Protocol

from .children import last_line, run_to_end

#: Beginning of the names of unfinished files of this package.
PART = ".diffaug-"


class Work(Protocol):
    """A run that writes into a folder. The same run again must end with the right files."""

    name: str

    @abstractmethod
    def prepare(self, folder: Path) -> None:
        """Write what is there before the run."""

    @abstractmethod
    def run(self, folder: Path) -> int | None:
        """In a process of its own. Returns the exit code."""

    @abstractmethod
    def fault_when_stopped(self, folder: Path) -> str:
        """What is wrong after a run that was stopped or that failed, "" if nothing is."""

    @abstractmethod
    def fault_at_end(self, folder: Path) -> str:
        """What is wrong after a run that came to its end, "" if nothing is."""


def finish(work: Work, folder: Path, log: Path) -> str:
    """Run again, undisturbed. Returns what is wrong at the end, "" if nothing is."""
    code = run_to_end(lambda: work.run(folder), log)
    if code:
        return f"the run after it ended with code {code}: {last_line(log)}"
    return work.fault_at_end(folder)


def judge(work: Work, folder: Path, code: int, log: Path) -> str:
    """After a fault: what is wrong now, or at the end of the next run, "" if nothing is.

    A run that ended with code 0 must have done its work. The folder is removed if nothing is wrong.
    """
    fault = work.fault_at_end(folder) if code == 0 else work.fault_when_stopped(folder)
    fault = fault or finish(work, folder, log)
    if not fault:
        shutil.rmtree(folder)
    return fault


def files_of(folder: Path) -> dict[str, bytes]:
    """All files under a folder, hidden ones too, by their paths in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def difference(found: dict[str, bytes], expected: dict[str, bytes]) -> str:
    """The first files in which two folders differ, "" if there is none."""
    names = sorted({*found, *expected})
    different = [name for name in names if found.get(name) != expected.get(name)]
    return f"not as without a fault: {', '.join(different[:5])}" if different else ""
