"""The test suite on this machine, if pytest and the tests are there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from ..harness.records import Record
from .settings import Settings

ROOT = Path(__file__).parents[2]
TINY = ("tests/score/test_schedule.py", "-n", "0")
PROCESSES = 16  # at most: each may take half a gigabyte of the GPU
OUTCOMES = ("passed", "failed", "errors", "skipped")


def measure(settings: Settings) -> Iterator[Record]:
    if not find_spec("pytest") or not (ROOT / "tests").is_dir():
        raise ModuleNotFoundError("pytest and the folder tests/ are needed")
    command = [sys.executable, "-m", "pytest"]  # pyproject.toml adds -q
    command += TINY if settings.tiny else ("-n", str(min(PROCESSES, os.cpu_count() or 1)))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout, file=sys.stderr)
    yield from records_of(settings, done.stdout)


def records_of(settings: Settings, output: str) -> list[Record]:
    """The numbers of pytest's last line, such as ``2 failed, 97 passed, 1 skipped in 8.31s``."""
    summary = (output.strip().splitlines() or [""])[-1].strip("= ")
    counts = dict.fromkeys(OUTCOMES, 0)
    for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", summary):
        counts["errors" if word.startswith("error") else word] = int(number)
    if not counts["passed"] + counts["failed"] + counts["errors"]:
        raise RuntimeError(f"pytest ran no test: {summary}")
    aims = {"failed": 0, "errors": 0}
    return [
        settings.record("pytest", f"tests_{outcome}", number, at_most=aims.get(outcome), n=1, summary=summary)
        for outcome, number in counts.items()
    ]
