"""Damaged files of networks and classifiers: cut short, or with one bit changed. See tests/properties/damaged_files.py.

Each loads as before or gives a clear error. A changed JSON file may also be one that somebody might have written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tests.properties.damaged_files import DAMAGE, Load, try_folder, write_folders
from tests.properties.judge import THIRD

from ..harness.records import Record
from .children import last_line, run_to_end
from .settings import Settings, Tally


def measure(settings: Settings) -> Iterator[Record]:
    folders = settings.folder / "whole"
    loads = write_folders(folders)
    trials = settings.choose(150, 5)
    for name, load in loads.items():
        for how in DAMAGE:
            tally = Tally("damage", f"{name}; {how}")
            result, log = settings.folder / "result.json", settings.folder / "log"
            code = run_to_end(lambda: try_in_child(load, folders / name, how, trials, settings.seed, result), log)  # noqa: B023
            if code:
                raise RuntimeError(f"the trials ended with code {code}: {last_line(log)}")
            faults: list[str] = json.loads(result.read_text())
            tally.add("", trials - len(faults))
            for fault in faults:
                tally.add(fault)
            yield from tally.records()


def try_in_child(load: Load, folder: Path, how: str, trials: int, seed: int, result: Path) -> None:
    """Write what was wrong with each trial that was neither right nor a clear error."""
    found = try_folder(load, folder, how, trials, seed)
    faults = [reason for (kind, reason), count in found.items() if kind == THIRD for _ in range(count)]
    result.write_text(json.dumps(faults))
