"""`diffaug purify`: take the noise out of a picture, or of the noisy pictures in a folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from ..files import writing_file
from ..offline.copies import encode_image, file_format, read_image
from ..offline.folders import find_pictures
from ..score.hub import embedded_network
from ..transforms import Purify
from .options import BY_SIZE, NETWORK_HELP, add_shared, find_device, new_command, report_skipped


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser = new_command(
        commands,
        "purify",
        "Denoise a picture at the level of its own noise, by one network call, or each picture of a folder. "
        "Pictures without visible noise are copied as they are.",
        "diffaug purify noisy.jpg clean.png",
        "diffaug purify scans/ scans_purified/ --sigma 0.1",
    )
    parser.add_argument("src", metavar="IN", type=Path, help="a picture, or a folder tree of pictures")
    parser.add_argument("dst", metavar="OUT", type=Path, help="the picture to write, or the folder for the same tree")
    text = "noise on pixels in [0, 1], as a standard deviation; default: estimated for each picture. JPEG hides part "
    text += "of the noise: give more if too much stays"
    parser.add_argument("--sigma", type=float, help=text)
    text = "leave pictures with at most this sigma alone; default: the network's own, or 0 with --sigma"
    parser.add_argument("--gate", type=float, help=text)
    parser.add_argument("--network", help=f"{NETWORK_HELP}; {BY_SIZE}")
    parser.add_argument("--overwrite", action="store_true", help="replace pictures that are there")
    add_shared(parser, "device")
    return parser


def run(args: argparse.Namespace) -> int:
    # huggingface_hub brings tqdm, so it is no requirement of ours.
    from tqdm.auto import tqdm

    device = find_device(args.device)
    names = (args.network,) if args.network else ("cifar10", "photos")
    purifiers = {name: Purify(name, sigma=args.sigma, gate=args.gate).eval() for name in names}
    pairs, skipped = find_pairs(args.src, args.dst)
    existing = [target for _, target in pairs if target.exists()]
    if existing and not args.overwrite:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise ValueError(f"{existing[0]}{more} would be replaced. Choose another OUT, or pass --overwrite")
    for source, target in tqdm(pairs, unit="image", desc="diffaug purify", disable=len(pairs) == 1):
        image = read_image(str(source), str(source), None)
        if not isinstance(image, str) and min(image.shape[-2:]) < 2 and args.sigma is None:
            image = f"skipped: {source}: it is too small, so its noise cannot be estimated"
        if isinstance(image, str):
            skipped.append(image)
            continue
        name = args.network or embedded_network(*image.shape[-2:])
        line = purify_picture(purifiers[name], name, image, source, target, device)
        tqdm.write(line, file=sys.stdout)
    return report_skipped(sorted(skipped))


def find_pairs(source: Path, target: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Each picture and where its result goes, and one line for each picture that cannot be used.

    Raises:
        OSError: the source is no file, and no folder with pictures. ValueError: a folder and a file, or one of them in
            the other.
    """
    if source.is_dir():
        if target.exists() and not target.is_dir():
            raise ValueError(f"OUT must be a folder if IN is one. Got the file {target}")
        paths, skipped = find_pictures(source, target)
        return [(source / path, target / path) for path in paths], skipped
    if not source.exists():
        raise OSError(f"IN must be a picture or a folder of pictures. There is no {source}")
    target = target / source.name if target.is_dir() else target
    if not target.suffix:
        raise ValueError(f"OUT must have a picture's ending, such as {target}.png, or be a folder that exists")
    if target.exists() and target.samefile(source):
        raise ValueError(f"OUT must be another file than IN. Got {target}")
    return [(source, target)], []


def purify_picture(
    purify: Purify, name: str, image: torch.Tensor, source: Path, target: Path, device: torch.device
) -> str:
    """Write the result for an image, uint8 (3, H, W). Returns a line about it, with the network's name.

    A picture that is not changed is copied byte for byte if its format stays the same.
    """
    image = image.to(device)
    params = purify.make_params([image])
    changed = bool(params["selected"])
    kind = file_format(target.name)
    if not changed and kind == file_format(source.name):
        data = source.read_bytes()
    else:
        data = encode_image(purify.transform(image, params).cpu(), kind)
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing_file(target) as part:
        part.write_bytes(data)
    done = f"purified by {name}" if changed else "left as it was"
    return f"{source}: sigma {params['sigmas'].item():.3f}, {done}"
