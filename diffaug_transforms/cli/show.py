"""`diffaug show`: one picture, diffused and denoised at several t."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ..arguments import as_optional_integer
from ..figures import fit_to_network, save_grid
from ..images import load_image
from ..score import Denoiser, views_over_time
from ..score.hub import embedded_network
from .options import BY_SIZE, add_figure_options, find_device, new_command, parse_timesteps

#: The network "photos" was trained on images of at least this side.
SMALLEST_PHOTO = 32
#: Larger photos are reduced to this shorter side by default: one call takes seconds for ten million pixels.
LARGEST = 512
#: The greatest height of an image in the drawing, in pixels.
CELL = 224


def add_parser(commands: Any) -> argparse.ArgumentParser:
    description = "Diffuse and denoise one picture at several t and write both rows, labelled."
    example = "diffaug show cat.jpg --timesteps 50:501:50 --output cat_over_t.png"
    parser = new_command(commands, "show", description, example)
    parser.add_argument("image", type=Path, help="a picture")
    size_help = f"reduce the picture to this shorter side first; default: a network's own size, or at most {LARGEST}"
    parser.add_argument("--size", type=int, help=size_help)
    add_figure_options(parser, "show", network=BY_SIZE)
    return parser


def run(args: argparse.Namespace) -> int:
    image = load_image(args.image)
    steps, device = parse_timesteps(args.timesteps), find_device(args.device)
    size = as_optional_integer("--size", args.size, 1)
    network = args.network or embedded_network(image.height, image.width)
    if network == "photos" and size is not None and size < SMALLEST_PHOTO:
        raise ValueError(f"--size must be at least {SMALLEST_PHOTO} for the network photos. Got {size}")
    denoiser = Denoiser(network)
    batch = fit(image, size, denoiser.network.image_size)[None].to(device) / 255
    height, width = batch.shape[-2:]
    if (width, height) != image.size:
        print(f"{args.image} has {image.width}x{image.height} pixels. The network sees {width}x{height} of it.")
    diffused, denoised = views_over_time(denoiser, batch, steps, args.seed)
    rows = [torch.cat([batch, diffused[:, 0]]), torch.cat([batch, denoised[:, 0]])]
    cell = min(CELL, max(height, 96))
    save_grid(rows, ["image", *(f"t = {t}" for t in steps)], ["diffused", "denoised"], args.output, cell=cell)
    print(f"Wrote {args.output}, with the network {network}")
    return 0


def fit(image: PIL.Image.Image, size: int | None, native: int | None) -> Tensor:
    """uint8 (3, H, W). A network with a size gets a square of it, one without gets the whole picture, reduced."""
    if native is not None:
        return fit_to_network(image, size or native)
    shorter = min(size or LARGEST, *image.size)
    return F.pil_to_tensor(F.resize(image.convert("RGB"), [shorter], antialias=True))
