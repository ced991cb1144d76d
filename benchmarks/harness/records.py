"""Results as tidy records, one measurement a line, and intermediate results that are kept on the disk."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffaug_transforms.files import sweep_parts, writing_file

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
        "versions": versions(),
    }
    write_lines(header, records, path)
    print(f"Wrote {path}")


def write_lines(header: dict[str, Any], records: Sequence[Record], path: Path) -> None:
    """JSON with one line for each entry of the header and each record, so that differences can be read."""
    fields = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items()]
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    with whole_file(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(fields) + f',\n "records": [\n{lines}\n ]\n}}\n')


def read_records(script: str) -> list[Record]:
    """The records of a script's committed results."""
    records: list[Record] = json.loads((RESULTS / f"{script}.json").read_text())["records"]
    return records


def summary(values: Tensor, digits: int = 5) -> Record:
    """Mean, standard error and number of one value per image, (B,): the end of a record."""
    values = values.double()
    error = round(values.std().item() / len(values) ** 0.5, digits) if len(values) > 1 else None
    return {"value": round(values.mean().item(), digits), "standard_error": error, "n": len(values)}


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


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

    A result of other settings or of other versions of the packages is made again, and so is one whose file is damaged.

    Args:
        path: of a file that ``torch.save`` writes.
        settings: plain values: everything that the result depends on. Files, networks and data belong in as digests.
        write: False for processes that leave the writing to another one.
    """
    settings = {"settings": settings, "versions": versions()}
    found = read_kept(path)
    if "result" not in found or found.get("settings") != settings:
        found = {"settings": settings, "result": make()}
        if write:
            with whole_file(path) as temporary:
                torch.save(found, temporary)
    return found["result"]


def read_kept(path: Path) -> dict[str, Any]:
    """What ``kept`` wrote, or {} if there is nothing, or nothing whole."""
    try:
        found = torch.load(path, weights_only=True)
    except FileNotFoundError:
        return {}
    except Exception as error:
        print(f"{path} is damaged and is made again: {type(error).__name__}", file=sys.stderr)
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A new path beside ``path``, of this process alone. At the end, what was written there becomes ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_parts(path.parent)
    with writing_file(path) as temporary:
        yield temporary
