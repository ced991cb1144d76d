"""Results as tidy records, one measurement a line, and intermediate results that are kept on the disk."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RESULTS = Path(__file__).parent.parent / "results"
PACKAGES = ("diffaug-transforms", "torch", "torchvision", "diffusers", "numpy")

#: One flat measurement: ``benchmark, dataset, model, recipe, mode, metric, value, n, seed`` and what else it needs.
Record = dict[str, Any]


def write_results(script: str, records: Sequence[Record], path: Path, module: str | None = None) -> None:
    """Write ``{"command", "created", "device", "versions", "records": [...]}``: how the records were made, and they.

    ``module`` is what was run. None: ``benchmarks.`` and the script's name.
    """
    header = {
        "command": shlex.join(["python", "-m", module or f"benchmarks.{script}", *sys.argv[1:]]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device_name(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    write_lines(header, records, path)
    print(f"Wrote {path}")


def write_lines(header: dict[str, Any], records: Sequence[Record], path: Path) -> None:
    """JSON with one line for each entry of the header and each record, so that differences can be read."""
    fields = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items()]
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(fields) + f',\n "records": [\n{lines}\n ]\n}}\n')


def read_records(script: str) -> list[Record]:
    """The records of a script's committed results."""
    records: list[Record] = json.loads((RESULTS / f"{script}.json").read_text())["records"]
    return records


def summary(values: Tensor, digits: int = 5) -> Record:
    """Mean, standard error and number of one value per image, (B,): the end of a record."""
    values = values.double()
    error = round(values.std().item() / len(values) ** 0.5, digits) if len(values) > 1 else None
    return {"value": round(values.mean().item(), digits), "standard_error": error, "n": len(values)}


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def kept(path: Path, settings: Any, make: Callable[[], Any], *, write: bool = True) -> Any:
    """The result of ``make``, from its file if that is there and has the same settings: a stopped run resumes.

    Args:
        path: of a file that ``torch.save`` writes.
        settings: plain values that the result depends on.
        write: False for processes that leave the writing to another one.
    """
    found = torch.load(path, weights_only=True) if path.exists() else {}
    if found.get("settings") != settings:
        found = {"settings": settings, "result": make()}
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(found, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
    return found["result"]
