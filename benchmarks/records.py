"""Tidy results: `{"command", "created", "device", "versions", "records": [...]}`, one flat measurement a record."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("diffaug-transforms", "torch", "torchvision", "diffusers", "numpy")

Record = dict[str, Any]


def write_results(script: str, records: list[Record], path: Path | None = None) -> Path:
    """Write a script's records with the command, time, device and versions that made them."""
    path = path or RESULTS / f"{Path(script).stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["python", f"benchmarks/{Path(script).name}", *sys.argv[1:]]
    content = {
        "command": shlex.join(arguments),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": device_name(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    # A record is one line: thousands of them stay small, and differences are readable.
    lines = ",\n".join(map(json.dumps, records))
    path.write_text(f'{json.dumps(content, indent=1)[:-2]},\n "records": [\n{lines}\n ]\n}}\n')
    print(f"Wrote {path}")
    return path


def read_records(script: str) -> list[Record]:
    """The records of a script's committed results."""
    return json.loads((RESULTS / f"{script}.json").read_text())["records"]


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
