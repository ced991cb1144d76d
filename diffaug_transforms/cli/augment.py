"""`diffaug augment`: augmented copies of a folder tree of images, or of shards."""

from __future__ import annotations

import argparse
import warnings
from contextlib import suppress
from typing import Any

from ..offline import ResizeAndCrop, augment_dataset, augment_folder, augment_shards, is_image_folder
from ..offline.copies import Prepare
from ..offline.first import first_size
from ..score.hub import embedded_network
from ..transforms import DeepAugment, DiffAug, Purify
from ..transforms.deepaugment import REDRAW_PROBABILITY
from .options import (
    BY_SIZE,
    NETWORK_HELP,
    TIMESTEPS_HELP,
    add_shared,
    find_device,
    new_command,
    parse_timesteps,
    report_skipped,
)


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser = new_command(
        commands,
        "augment",
        "Write augmented copies of a folder tree of images, a Hub data set, Parquet files or WebDataset shards. "
        "The same command resumes a run that was stopped.",
        "diffaug augment train/ train_diffaug/ --timesteps 350:701:50 --copies 2 --seed 1",
        "diffaug augment photos/ photos_diffaug/ --network imagenet256 --resize 256 --crop 256",
        "diffaug augment train/ train_edsr/ --with deepaugment:edsr",
        "diffaug augment uoft-cs/cifar10 cifar10_diffaug/ --split train",
        "diffaug augment s3://bucket/train s3://bucket/train_diffaug --engine ray --workers 8",
    )
    parser.add_argument("src", metavar="SRC", help="folder tree of images, Parquet files, tars, or a Hub data set's id")
    parser.add_argument("dst", metavar="DST", help="where the copies go: in the same tree, or as shards")
    methods = ("diffaug", "purify", "deepaugment", "deepaugment:edsr", "deepaugment:cae")
    text = "augmentation; default: %(default)s"
    parser.add_argument("--with", choices=methods, default="diffaug", dest="method", help=text)
    parser.add_argument("--weights", help="file for deepaugment:cae (required) and deepaugment:edsr")
    parser.add_argument("--timesteps", help=f"{TIMESTEPS_HELP}; default: the network's own")
    parser.add_argument("--copies", type=int, default=1, help="copies per image; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="images at once; default: %(default)s")
    parser.add_argument("--resize", type=int, help="first resize the shorter side to this many pixels")
    parser.add_argument("--crop", type=int, help="then cut out the centre, with this many pixels a side")
    parser.add_argument("--overwrite", action="store_true", help="remove the copies that are there, and start anew")
    parser.add_argument("--split", help="of a data set, such as train; default: all")
    text = "the photo among a WebDataset sample's members, such as jpg or '*.jpg'; default: the only clear one"
    parser.add_argument("--member", help=text)
    text = "this process, or Ray Data on one machine or many; default: %(default)s"
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help=text)
    text = "networks that Ray runs, at most as many as fit; default: one per GPU, or per core"
    parser.add_argument("--workers", type=int, help=text)
    text = "part of a GPU for each of Ray's workers, such as 0.5; default: 1"
    parser.add_argument("--gpus-per-worker", type=float, help=text)
    parser.add_argument("--network", help=f"{NETWORK_HELP}; {BY_SIZE}, by the first picture")
    add_shared(parser, "device", "seed")
    return parser


def run(args: argparse.Namespace) -> int:
    check_method(args)
    check_engine(args)
    options: Any = {name: getattr(args, name) for name in ("copies", "seed", "batch_size", "overwrite")}
    has_steps = args.resize is not None or args.crop is not None
    options["prepare"] = ResizeAndCrop(args.resize, args.crop) if has_steps else None
    transform, redraw = make_transform(args, options["prepare"])
    if args.engine == "ray":
        options |= {"device": args.device, "workers": args.workers, "redraw": redraw, "member": args.member}
        options |= {} if args.gpus_per_worker is None else {"gpus_per_worker": args.gpus_per_worker}
        failures = augment_dataset(args.src, args.dst, transform, **options)
    else:
        options["device"] = find_device(args.device)
        if is_image_folder(args.src, args.dst):
            failures = augment_folder(args.src, args.dst, transform, redraw=redraw, **options)
        else:
            options |= {"member": args.member, "split": args.split}
            failures = augment_shards(args.src, args.dst, transform, **options)
    return report_skipped(failures)


def check_engine(args: argparse.Namespace) -> None:
    """ValueError for options that go with the other engine."""
    ray = args.engine == "ray"
    for name in ("split",) if ray else ("workers", "gpus_per_worker"):
        if (value := getattr(args, name)) is not None:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} goes with --engine {'local' if ray else 'ray'}. Got {value}")


def check_method(args: argparse.Namespace) -> None:
    """ValueError for options that go with another ``--with``."""
    if args.method in ("diffaug", "purify"):
        if args.weights is not None:
            raise ValueError(f"--weights goes with --with deepaugment:edsr and deepaugment:cae. Got {args.weights}")
        if args.method == "purify" and args.timesteps is not None:
            raise ValueError(f"--timesteps goes with --with diffaug. Got {args.timesteps}")
    elif args.timesteps is not None or args.network is not None:
        raise ValueError("--network goes with --with diffaug and purify, --timesteps with --with diffaug")


def make_transform(args: argparse.Namespace, prepare: Prepare) -> tuple[DiffAug | DeepAugment | Purify, float]:
    """The transform of ``--with``, and the probability that a copy gets a newly corrupted network."""
    method, _, kind = args.method.partition(":")
    if method == "deepaugment":
        transform = DeepAugment(kind or "noise2net", weights=args.weights)
        return transform.eval(), REDRAW_PROBABILITY if kind else 1.0
    steps = None if args.timesteps is None else parse_timesteps(args.timesteps)
    network = args.network or choose_network(args, prepare)
    if method == "purify":
        return Purify(network).eval(), 1.0
    return DiffAug(network, timesteps=steps).eval(), 1.0


def choose_network(args: argparse.Namespace, prepare: Prepare) -> str:
    """The embedded network that fits the first picture, and a line that says so."""
    size = None
    with suppress(OSError, ValueError, ImportError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself says what is wrong with SRC
        size = first_size(args.src, member=args.member, split=args.split, prepare=prepare)
    if size is not None:
        network = embedded_network(*size)
        print(f"Network: {network}, because the first picture has {size[0]}x{size[1]} pixels")
        return network
    if "://" in args.src:
        print("Network: cifar10, because pictures that far away are not looked at. --network chooses another")
    return "cifar10"
