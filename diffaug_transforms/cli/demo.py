"""`diffaug demo`: the package's sample images, denoised at several t."""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from ..figures import fit_to_network, save_grid
from ..images import sample_images
from ..score import Denoiser, views_over_time
from .options import add_figure_options, new_command, parse_timesteps


def add_parser(commands: Any) -> argparse.ArgumentParser:
    description = "Augment the package's sample images at several t and write one labelled picture."
    parser = new_command(commands, "demo", description, "diffaug demo --output demo.png")
    add_figure_options(parser, "demo")
    return parser


def run(args: argparse.Namespace) -> int:
    images = sample_images()
    steps = parse_timesteps(args.timesteps)
    started = time.perf_counter()
    denoiser = Denoiser(args.network)
    size = denoiser.network.image_size
    loaded = time.perf_counter()
    batch = torch.stack([fit_to_network(image, size) for image in images.values()]) / 255
    _, denoised = views_over_time(denoiser, batch, steps, args.seed)
    seconds = time.perf_counter() - loaded
    rows = list(torch.cat([batch[None], denoised]).transpose(0, 1))
    save_grid(rows, ["image", *(f"t = {t}" for t in steps)], list(images), args.output)
    each = f"{seconds / len(steps) / len(batch) * 1e3:.0f} ms an augmentation, loading {loaded - started:.1f} s"
    print(f"{len(batch)} images at {len(steps)} timesteps in {seconds:.1f} s ({each}). Wrote {args.output}")
    return 0
