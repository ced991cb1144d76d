"""`diffaug convert`: an OpenAI checkpoint becomes a folder that diffusers reads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..score import load_score_network
from .options import new_command


def add_parser(commands: Any) -> argparse.ArgumentParser:
    description = "Convert an OpenAI checkpoint to a folder in diffusers' layout."
    parser = new_command(commands, "convert", description, "diffaug convert 256x256_diffusion_uncond.pt adm256/")
    parser.add_argument("ckpt", type=Path, metavar="CKPT", help="OpenAI .pt file")
    parser.add_argument("dst", type=Path, metavar="DST", help="a new folder")
    parser.add_argument("--flags", help="OpenAI's flags as their README prints them, needed if the file was renamed")
    return parser


def run(args: argparse.Namespace) -> int:
    if args.dst.exists() and any(args.dst.iterdir()):
        raise ValueError(f"DST must be a new or an empty folder. Got {args.dst}")
    if args.ckpt.suffix not in (".pt", ".pth"):
        raise ValueError(f"CKPT must be an OpenAI .pt file. Got {args.ckpt}")
    load_score_network(args.ckpt.absolute(), openai_flags=args.flags).save_pretrained(args.dst)
    print(f"Wrote {args.dst}: load_score_network({str(args.dst)!r}) or DDPMPipeline.from_pretrained reads it")
    return 0
