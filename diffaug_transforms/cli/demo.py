"""`diffaug demo`: the package's sample images and its photo, denoised at several t."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import PIL.Image
import torch

from ..arguments import counted
from ..figures import draw_grid, fit_to_network, stack_pictures
from ..images import sample_images, sample_photo
from ..score import Denoiser, views_over_time
from .options import add_figure_options, find_device, new_command, parse_timesteps

#: Networks for images above this size are shown the photo, the others the sample images.
SMALL = 64
#: The height of the photo in the picture, in pixels: its row is as wide as those of the sample images.
PHOTO_CELL = 130


def add_parser(commands: Any) -> argparse.ArgumentParser:
    description = "Draw a picture of eight images, denoised from several t, and of a photo, diffused and denoised."
    parser = new_command(commands, "demo", description, "diffaug demo --output demo.png")
    add_figure_options(parser, "demo", network="default: cifar10 for the sample images and photos for the photo")
    return parser


def run(args: argparse.Namespace) -> int:
    steps, device = parse_timesteps(args.timesteps), find_device(args.device)
    pictures = []
    for network in [args.network] if args.network else ["cifar10", "photos"]:
        started = time.perf_counter()
        denoiser = Denoiser(network)
        size = denoiser.network.image_size
        loaded = time.perf_counter()
        is_small = size is not None and size <= SMALL
        draw = draw_samples if is_small else draw_photo
        picture, calls = draw(denoiser, steps, args.seed, device)
        pictures.append(picture)
        seconds = time.perf_counter() - loaded
        each = f"{seconds / calls * 1e3:.0f} ms an augmentation, loading {loaded - started:.1f} s"
        print(f"{network}: {counted(calls, 'augmentation')} in {seconds:.1f} s ({each})")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    stack_pictures(pictures).save(args.output)
    print(f"Wrote {args.output}")
    return 0


def draw_samples(
    denoiser: Denoiser, steps: Sequence[int], seed: int, device: torch.device
) -> tuple[PIL.Image.Image, int]:
    """The sample images' rows, denoised at every t, and the number of network calls for one image each."""
    images = sample_images()
    batch = torch.stack([fit_to_network(image, denoiser.network.image_size) for image in images.values()])
    batch = batch.to(device) / 255
    _, denoised = views_over_time(denoiser, batch, steps, seed)
    rows = list(torch.cat([batch[None], denoised]).transpose(0, 1))
    return draw_grid(rows, ["image", *(f"t = {t}" for t in steps)], list(images)), len(steps) * len(batch)


def draw_photo(
    denoiser: Denoiser, steps: Sequence[int], seed: int, device: torch.device
) -> tuple[PIL.Image.Image, int]:
    """The photo at every second t: a row diffused, a row denoised. It keeps its size if the network takes any."""
    shown = steps[1::2] or steps
    photo = sample_photo()
    size = denoiser.network.image_size
    batch = fit_to_network(photo, size)[None].to(device) / 255
    diffused, denoised = views_over_time(denoiser, batch, shown, seed)
    rows = [torch.cat([batch, views[:, 0]]) for views in (diffused, denoised)]
    columns = ["photo", *(f"t = {t}" for t in shown)]
    return draw_grid(rows, columns, ["diffused", "denoised"], cell=PHOTO_CELL), len(shown)
