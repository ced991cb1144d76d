"""What every part is given, and how outcomes are counted."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..harness.records import Record

#: How many faults' descriptions a record keeps.
SHOWN = 5


@dataclass(frozen=True)
class Settings:
    """Options of a part.

    Attributes:
        folder: an empty folder for what the part writes.
        end: the time, of ``time.monotonic``, at which the part should have ended.
        tiny: a few faults of each kind, to try the script.
        seed: of the moments and places of the faults.
    """

    folder: Path
    end: float
    tiny: bool
    seed: int

    def choose(self, full: int, tiny: int) -> int:
        return tiny if self.tiny else full

    def random(self, name: str) -> random.Random:
        """A random sequence of its own for each name."""
        return random.Random(f"{self.seed} {name}")

    def ends(self, parts: int) -> Iterator[float]:
        """The times at which each of the part's pieces should have ended. Time that a piece leaves goes to the next."""
        for left in range(parts, 0, -1):
            now = time.monotonic()
            yield now + max(0.0, self.end - now) / left


@dataclass
class Tally:
    """Counts faults of one kind: injected, survived, and lost, which is everything else."""

    part: str
    method: str
    injected: int = 0
    survived: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, fault: str, number: int = 1) -> None:
        """Count ``number`` injected faults. ``fault`` says what was wrong at the end, "" if nothing was."""
        self.injected += number
        if fault:
            print(f"  LOST: {self.part}, {self.method}: {fault}", file=sys.stderr, flush=True)
            self.faults.append(fault)
        self.survived += number - bool(fault)

    def records(self, **more: object) -> Iterator[Record]:
        """One record for each count. ``lost`` has the first few descriptions."""
        common: Record = {"part": self.part, "method": self.method, "n": self.injected, **more}
        yield {**common, "metric": "injected", "value": self.injected}
        yield {**common, "metric": "survived", "value": self.survived}
        lost: Record = {**common, "metric": "lost or silently wrong", "value": self.injected - self.survived}
        yield {**lost, "faults": self.faults[:SHOWN]} if self.faults else lost
