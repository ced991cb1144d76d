"""Options that several commands share, and how a command is declared."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..arguments import counted
from ..score.hub import CIFAR10_SIDE

TIMESTEPS_HELP = "500, 50,100,150 or start:stop:step"
NETWORK_HELP = "score network: name (see diffaug networks), Hub repository, folder or .pt"
BY_SIZE = f"default: photos, or cifar10 for pictures whose shorter side has at most {CIFAR10_SIDE} pixels"
SHARED: dict[str, dict[str, Any]] = {
    "device": {"help": "where the network runs, such as cpu; default: cuda if there is one, else cpu"},
    "network": {
        "default": "cifar10",
        "help": f"{NETWORK_HELP}; default: %(default)s",
    },
    "seed": {"type": int, "default": 0, "help": "seed of all draws; default: %(default)s"},
}


def new_command(commands: Any, name: str, description: str, *examples: str) -> argparse.ArgumentParser:
    """A parser of a command, whose help ends with examples."""
    epilog = "\n  ".join(["example:" if len(examples) == 1 else "examples:", *examples])
    kind = argparse.RawDescriptionHelpFormatter
    return commands.add_parser(name, help=description, description=description, epilog=epilog, formatter_class=kind)


def add_figure_options(parser: argparse.ArgumentParser, name: str, network: str) -> None:
    """The options of a command that draws images over t. ``network`` says which one is the default."""
    steps, output = "25,50,100,150,200,300,400,500,600", Path(f"diffaug_{name}.png")
    parser.add_argument("--timesteps", default=steps, help=f"{TIMESTEPS_HELP}; default: %(default)s")
    parser.add_argument("--output", type=Path, default=output, help="the picture to write; default: %(default)s")
    parser.add_argument("--network", help=f"{NETWORK_HELP}; {network}")
    add_shared(parser, "device", "seed")


def add_shared(parser: argparse.ArgumentParser, *names: str) -> None:
    """Options that several commands have, by name."""
    for name in names:
        parser.add_argument(f"--{name}", **SHARED[name])


def report_skipped(lines: Sequence[str]) -> int:
    """Print one line for each file that was skipped, and how many they are. Returns the exit code."""
    if not lines:
        return 0
    print("".join(f"{line}\n" for line in lines), end="", file=sys.stderr)
    were = "was" if len(lines) == 1 else "were"
    print(f"diffaug: {counted(len(lines), 'file')} could not be read and {were} skipped", file=sys.stderr)
    return 1


def find_device(name: str | None) -> torch.device:
    """The device of ``--device``. ValueError if this machine does not have it."""
    try:
        return torch.empty(0, device=name or ("cuda" if torch.cuda.is_available() else "cpu")).device
    except (RuntimeError, AssertionError) as error:
        known = "cpu or cuda" if torch.cuda.is_available() else "cpu: PyTorch finds no CUDA device here"
        raise ValueError(f"--device must be a device of this machine, such as {known}. Got {name}") from error


def parse_timesteps(text: str) -> list[int]:
    """``500``, ``50,100,150`` or ``start:stop:step`` as in Python's range."""
    try:
        if ":" in text:
            return list(range(*(int(part) for part in text.split(":"))))
        return [int(part) for part in text.split(",")]
    except (ValueError, TypeError):
        raise ValueError(f"timesteps must be {TIMESTEPS_HELP}. Got {text!r}") from None
