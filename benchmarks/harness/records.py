"""The benchmarks' results: written to and read from ``results/``."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from diffaug_transforms.robustness.evaluation.records import Record as Record
from diffaug_transforms.robustness.evaluation.records import write_records

RESULTS = Path(__file__).parent.parent / "results"


def write_results(script: str, records: Sequence[Record], path: Path, module: str | None = None) -> None:
    """Write ``{"command", "created", "device", "versions", "records": [...]}``: how the records were made, and they.

    ``module`` is what was run. None: ``benchmarks.`` and the script's name.
    """
    write_records(shlex.join(["python", "-m", module or f"benchmarks.{script}", *sys.argv[1:]]), records, path)
    print(f"Wrote {path}")


def read_records(script: str) -> list[Record]:
    """The records of a script's committed results."""
    records: list[Record] = json.loads((RESULTS / f"{script}.json").read_text())["records"]
    return records


def summary(values: Tensor, digits: int = 5) -> Record:
    """Mean, standard error and number of one value per image, (B,): the end of a record."""
    values = values.double()
    error = round(values.std().item() / len(values) ** 0.5, digits) if len(values) > 1 else None
    return {"value": round(values.mean().item(), digits), "standard_error": error, "n": len(values)}
