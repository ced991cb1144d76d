"""Results as tidy records, one measurement a line, and finished parts of a run that are kept on the disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ...files import sweep_parts, writing_file
from ...versions import versions

#: One flat measurement: ``benchmark, dataset, model, recipe, mode, metric, value, n, seed`` and what else it needs.
Record = dict[str, Any]


def write_records(command: str, records: Sequence[Record], path: Path) -> None:
    """Write ``{"command", "created", "device", "versions", "records": [...]}``: how the records were made, and they."""
    header = {
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device_name(),
        "versions": versions(),
    }
    write_lines(header, records, path)


def write_lines(header: dict[str, Any], records: Sequence[Record], path: Path) -> None:
    """JSON with one line for each entry of the header and each record, so that differences can be read."""
    fields = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items()]
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    with whole_file(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(fields) + f',\n "records": [\n{lines}\n ]\n}}\n')


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
    found = read_kept(path)
    if not has_settings(found, settings):
        found = {"settings": with_versions(settings), "result": make()}
        if write:
            with whole_file(path) as temporary:
                torch.save(found, temporary)
    return found["result"]


def is_kept(path: Path, settings: Any) -> bool:
    """Whether ``kept`` would read its result from this file."""
    return has_settings(read_kept(path), settings)


def has_settings(found: dict[str, Any], settings: Any) -> bool:
    return "result" in found and found.get("settings") == with_versions(settings)


def with_versions(settings: Any) -> dict[str, Any]:
    return {"settings": settings, "versions": versions()}


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
