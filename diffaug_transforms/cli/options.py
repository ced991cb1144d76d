"""Options that several commands share, and how a command is declared."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

#: The timesteps in the pictures of `diffaug demo` and `diffaug show`.
FIGURE_TIMESTEPS = "25,50,100,150,200,300,400,500,600"
TIMESTEPS_HELP = "500, 50,100,150 or start:stop:step"


def new_command(commands: Any, name: str, description: str, *examples: str) -> argparse.ArgumentParser:
    """A parser of a command, whose help ends with examples."""
    return commands.add_parser(
        name,
        help=description,
        description=description,
        epilog="\n  ".join(["example:" if len(examples) == 1 else "examples:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_figure_options(parser: argparse.ArgumentParser, name: str) -> None:
    """The options of a command that draws images over t."""
    output = Path(f"diffaug_{name}.png")
    parser.add_argument("--timesteps", default=FIGURE_TIMESTEPS, help=f"{TIMESTEPS_HELP}; default: %(default)s")
    parser.add_argument("--output", type=Path, default=output, help="the picture to write; default: %(default)s")
    add_network(parser)
    add_seed(parser)


def add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--network", default="cifar10", help="score network: name, Hub repository, folder or .pt; default: %(default)s"
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws; default: %(default)s")


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")


def find_device(name: str | None) -> torch.device:
    """The device of ``--device``. ValueError if this machine does not have it."""
    try:
        return torch.empty(0, device=name or ("cuda" if torch.cuda.is_available() else "cpu")).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device must be a device of this machine, such as cpu or cuda. Got {name}") from error


def parse_timesteps(text: str) -> list[int]:
    """``500``, ``50,100,150`` or ``start:stop:step`` as in Python's range."""
    try:
        if ":" in text:
            return list(range(*(int(part) for part in text.split(":"))))
        return [int(part) for part in text.split(",")]
    except (ValueError, TypeError):
        raise ValueError(f"timesteps must be 500, 50,100,150 or start:stop:step. Got {text!r}") from None
