"""`diffaug networks`: the networks known by name."""

from __future__ import annotations

import argparse
from typing import Any

from ..score import list_score_networks
from .options import new_command


def add_parser(commands: Any) -> argparse.ArgumentParser:
    return new_command(commands, "networks", "Print the networks known by name.", "diffaug networks")


def run(args: argparse.Namespace) -> int:
    print(f"{'name':<23}{'pixels':>6}  {'T':>4}  {'classes':<10}{'licence':<12}{'sha256':<9}source; note")
    for card in list_score_networks().values():
        size = card.image_size or "any"
        facts = f"{card.name:<23}{size:>6}  {card.num_timesteps:>4}  {card.classes:<10}{card.licence:<12}"
        print(f"{facts}{'checked' if card.sha256 else 'unknown':<9}{card.source}; {card.note}")
    return 0
