"""Command-line options that several benchmarks have, declared once."""

from __future__ import annotations

import argparse
import math
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


def positive_int(text: str) -> int:
    """The type of options that say how many."""
    return _checked(int(text), int(text) >= 1, "at least 1")


def nonnegative_int(text: str) -> int:
    """The type of places, timesteps, seeds and numbers that may be 0."""
    return _checked(int(text), int(text) >= 0, "at least 0")


def positive_float(text: str) -> float:
    """The type of lengths, rates and shares."""
    return _checked(float(text), 0 < float(text) < math.inf, "above 0")


def nonnegative_float(text: str) -> float:
    """The type of weights that may be 0."""
    return _checked(float(text), 0 <= float(text) < math.inf, "at least 0")


def _checked(value: Any, fits: bool, limit: str) -> Any:
    """The value. The script ends with one line if it does not fit, before anything is read."""
    if not fits:
        raise argparse.ArgumentTypeError(f"it must be {limit}. Got {value}")
    return value


#: The numbers among ``HELP``'s options that may be 0. The others say how many.
MAY_BE_ZERO = ("timesteps", "seed", "workers", "pictures")


def script_parser(doc: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """A parser whose description is the script's docstring, with the named options of ``HELP`` and these defaults.

    An option has its default's type. A list makes an option of several values; an empty tuple one that is required.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", help=HELP[name], **_kind(name, default))
    return parser


def _kind(name: str, default: Any) -> dict[str, Any]:
    if default == ():
        return {"nargs": "+", "action": "extend", "required": True}
    one = default[0] if isinstance(default, list) else default
    numbers = nonnegative_int if name in MAY_BE_ZERO else positive_int
    kind = numbers if isinstance(one, int) else Path if isinstance(one, Path) else type(one)
    return {"type": kind, "default": default} | ({"nargs": "*"} if isinstance(default, list) else {})


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_workers() -> int:
    """For a GPU one process per core of this process's share, up to 8. On a CPU none: the network needs its cores."""
    if not torch.cuda.is_available():
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
