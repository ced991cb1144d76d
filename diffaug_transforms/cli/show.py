"""`diffaug show`: one picture, diffused and denoised at several t."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from ..figures import fit_to_network, save_grid
from ..images import load_image
from ..score import Denoiser, views_over_time
from .options import add_figure_options, new_command, parse_timesteps


def add_parser(commands: Any) -> argparse.ArgumentParser:
    description = "Diffuse and denoise one picture at several t and write both rows, labelled."
    example = "diffaug show cat.jpg --timesteps 50:501:50 --output cat_over_t.png"
    parser = new_command(commands, "show", description, example)
    parser.add_argument("image", type=Path, help="a picture; its centre is cut out at the network's size")
    add_figure_options(parser, "show")
    return parser


def run(args: argparse.Namespace) -> int:
    image = load_image(args.image)
    steps = parse_timesteps(args.timesteps)
    denoiser = Denoiser(args.network)
    batch = fit_to_network(image, denoiser.network.image_size)[None] / 255
    diffused, denoised = views_over_time(denoiser, batch, steps, args.seed)
    rows = [torch.cat([batch, diffused[:, 0]]), torch.cat([batch, denoised[:, 0]])]
    save_grid(rows, ["image", *(f"t = {t}" for t in steps)], ["diffused", "denoised"], args.output)
    print(f"Wrote {args.output}")
    return 0
