"""`diffaug networks`: the networks known by name."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from ..score import NetworkCard, list_score_networks
from .options import new_command

#: Width of the text, and of the column of names.
WIDTH, NAME = 100, 23


def add_parser(commands: Any) -> argparse.ArgumentParser:
    return new_command(commands, "networks", "Print the networks known by name.", "diffaug networks")


def run(args: argparse.Namespace) -> int:
    cards = list_score_networks().values()
    print(f"{'name':<{NAME}}pixels  {'classes':<11}{'licence':<12} GFLOP  for")
    for card in cards:
        size = card.image_size or "any"
        print(f"{card.name:<{NAME}}{size:>6}  {card.classes:<11}{card.licence:<12}{card.gflop:>6.1f}  {card.purpose}")
    print("\nGFLOP: 1e9 operations of one call, for one image of the network's size, or of 224 pixels\n")
    for card in cards:
        print(textwrap.fill(f"{card.name:<{NAME}}{origin(card)}", WIDTH, subsequent_indent=" " * NAME))
    return 0


def origin(card: NetworkCard) -> str:
    """Where the weights come from, what they are, and whether they are checked."""
    return f"{card.source}; {card.note}; {'sha256 checked' if card.sha256 else 'sha256 unknown'}"
