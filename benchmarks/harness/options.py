"""Command-line options that several benchmarks have, declared once."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch

HELP = {
    "classifier": "folders of train_cifar10, cifar10-baseline, cifar10-diffaug, NAME, timm/NAME or NAME@FILE",
    "data": "Hub id, or a local folder",
    "dataset": "the test set",
    "network": "as load_score_network takes it",
    "images": "the first N images of a random order",
    "timesteps": "of the network",
    "rounds": "timed rounds; every method runs once in each",
    "batch_size": "largest batch of images on the device",
    "seed": "of all random draws",
    "workers": "processes that read images; default: 0 on a CPU, else up to 8, one per core",
    "pictures": "places of the test images to draw",
    "work": "where finished parts are kept; a stopped run resumes",
    "output": "JSON file of the records; pictures are written beside it",
}


def script_parser(doc: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """A parser whose description is the script's docstring, with the named options of ``HELP`` and these defaults.

    An option has its default's type. A list makes an option of several values; an empty tuple one that is required.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", help=HELP[name], **_kind(default))
    return parser


def _kind(default: Any) -> dict[str, Any]:
    if default == ():
        return {"nargs": "+", "action": "extend", "required": True}
    if isinstance(default, list):
        return {"nargs": "*", "type": type(default[0]), "default": default}
    return {"type": Path if isinstance(default, Path) else type(default), "default": default}


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_workers() -> int:
    """For a GPU one process per core of this process's share, up to 8. On a CPU none: the network needs its cores."""
    if not torch.cuda.is_available():
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
