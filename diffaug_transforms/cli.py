"""The `diffaug` command."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torchvision.transforms import v2

from .app import EXAMPLES as APP_EXAMPLES
from .app import add_app_options, app
from .cli_sample import EXAMPLES, add_sample_options, sample
from .figures import fit_to_network, save_grid
from .images import sample_images
from .offline import augment_folder
from .offline_ray import augment_dataset
from .score import list_score_networks, load_score_network
from .score.denoiser import views_over_time
from .transforms import DeepAugment, DiffAug
from .transforms.deepaugment import REDRAW_PROBABILITY

FIGURE_TIMESTEPS = "25,50,100,150,200,300,400,500,600"
METHODS = ("diffaug", "deepaugment", "deepaugment:edsr", "deepaugment:cae")


def demo(args: argparse.Namespace) -> int:
    """Augment the package's sample images over t and write one labelled picture."""
    images = sample_images()
    started = time.perf_counter()
    augment = DiffAug(args.network)
    size = augment.network.image_size
    loaded = time.perf_counter()
    batch = torch.stack([fit_to_network(image, size) for image in images.values()]) / 255
    steps = parse_timesteps(args.timesteps)
    _, denoised = views_over_time(augment.denoiser, batch, steps, args.seed)
    finished = time.perf_counter()
    rows = [torch.cat([batch[i, None], denoised[:, i]]) for i in range(len(batch))]
    save_grid(rows, ["image", *(f"t = {t}" for t in steps)], list(images), args.output)
    print(
        f"{len(batch)} images at {len(steps)} timesteps in {finished - loaded:.1f} s "
        f"({(finished - loaded) / denoised.shape[0] / len(batch) * 1e3:.0f} ms an augmentation, "
        f"loading {loaded - started:.1f} s). Wrote {args.output}"
    )
    return 0


def show(args: argparse.Namespace) -> int:
    """Diffuse and denoise one picture over t and write both rows, labelled."""
    with PIL.Image.open(args.image) as file:
        image = file.convert("RGB")
    augment = DiffAug(args.network)
    batch = fit_to_network(image, augment.network.image_size)[None] / 255
    steps = parse_timesteps(args.timesteps)
    diffused, denoised = views_over_time(augment.denoiser, batch, steps, args.seed)
    rows = [torch.cat([batch, diffused[:, 0]]), torch.cat([batch, denoised[:, 0]])]
    save_grid(rows, ["image", *(f"t = {t}" for t in steps)], ["diffused", "denoised"], args.output)
    print(f"Wrote {args.output}")
    return 0


def augment(args: argparse.Namespace) -> int:
    """Write augmented copies of a folder tree of images; of Parquet or WebDataset shards with --engine ray."""
    transform, redraw = offline_transform(args)
    steps = [v2.Resize(args.resize, antialias=True)] if args.resize else []
    steps += [v2.CenterCrop(args.crop)] if args.crop else []
    options: Any = {"copies": args.copies, "seed": args.seed, "batch_size": args.batch_size}
    options["prepare"] = v2.Compose(steps) if steps else None
    if args.engine == "ray":
        failures = augment_dataset(args.src, args.dst, transform, device=args.device, workers=args.workers, **options)
        print("".join(f"{line}\n" for line in failures), end="", file=sys.stderr)
    elif args.workers is not None:
        raise ValueError(f"--workers goes with --engine ray. Got {args.workers}")
    else:
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        failures = augment_folder(Path(args.src), Path(args.dst), transform, redraw=redraw, device=device, **options)
    if failures:
        print(f"diffaug: {len(failures)} files could not be read and were skipped", file=sys.stderr)
    return 1 if failures else 0


def offline_transform(args: argparse.Namespace) -> tuple[DiffAug | DeepAugment, float]:
    """The transform of --with, and the probability that a copy gets a newly corrupted network."""
    method, _, kind = args.method.partition(":")
    if method == "diffaug":
        if args.weights is not None:
            raise ValueError(f"--weights goes with --with deepaugment:edsr and deepaugment:cae. Got {args.weights}")
        steps = None if args.timesteps is None else parse_timesteps(args.timesteps)
        return DiffAug(args.network, timesteps=steps).eval(), 1.0
    if args.timesteps is not None or args.network != "cifar10":
        raise ValueError("--network and --timesteps go with --with diffaug")
    transform = DeepAugment(kind or "noise2net", weights=args.weights)
    return transform.eval(), REDRAW_PROBABILITY if kind else 1.0


def networks(args: argparse.Namespace) -> int:
    """Print the networks known by name."""
    print(f"{'name':<23}{'pixels':>6}  {'T':>4}  {'classes':<10}{'licence':<12}{'sha256':<9}source; note")
    for card in list_score_networks().values():
        sha256 = "checked" if card.sha256 else "unknown"
        print(
            f"{card.name:<23}{card.image_size:>6}  {card.num_timesteps:>4}  {card.classes:<10}{card.licence:<12}"
            f"{sha256:<9}{card.repo or 'in the package'}; {card.note}"
        )
    return 0


def convert(args: argparse.Namespace) -> int:
    """Convert an OpenAI checkpoint to a folder in diffusers' layout."""
    if args.dst.exists() and any(args.dst.iterdir()):
        raise ValueError(f"DST must be a new or an empty folder. Got {args.dst}")
    if args.ckpt.suffix not in (".pt", ".pth"):
        raise ValueError(f"CKPT must be an OpenAI .pt file. Got {args.ckpt}")
    load_score_network(args.ckpt.absolute(), openai_flags=args.flags).save_pretrained(args.dst)
    print(f"Wrote {args.dst}: load_score_network({str(args.dst)!r}) or DDPMPipeline.from_pretrained reads it")
    return 0


def parse_timesteps(text: str) -> list[int]:
    """``500``, ``50,100,150`` or Python's ``start:stop:step``."""
    try:
        if ":" in text:
            return list(range(*(int(part) for part in text.split(":"))))
        return [int(part) for part in text.split(",")]
    except (ValueError, TypeError):
        raise ValueError(f"timesteps must be 500, 50,100,150 or start:stop:step. Got {text!r}") from None


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="diffaug", description="DiffAug: diffuse-and-denoise augmentation.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function, *examples):  # type: ignore[no-untyped-def]
        sub = commands.add_parser(
            function.__name__,
            help=function.__doc__,
            description=function.__doc__,
            epilog="\n  ".join(["example:" if len(examples) == 1 else "examples:", *examples]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(function=function)
        return sub

    show_parser = command(show, "diffaug show cat.jpg --timesteps 50:501:50 --output cat_over_t.png")
    show_parser.add_argument("image", type=Path, help="a picture; its centre is cut out at the network's size")
    folder_parser = command(
        augment,
        "diffaug augment train/ train_diffaug/ --timesteps 350:701:50 --copies 2 --seed 1",
        "diffaug augment train/ train_edsr/ --with deepaugment:edsr",
        "diffaug augment s3://bucket/train s3://bucket/train_diffaug --engine ray --workers 8",
    )
    figures = [command(demo, "diffaug demo --output demo.png"), show_parser]
    for sub in figures:
        add_figure_options(sub)
    add_folder_options(folder_parser)
    sample_parser = command(sample, *EXAMPLES)
    add_sample_options(sample_parser)
    app_parser = command(app, *APP_EXAMPLES)
    add_app_options(app_parser)
    for sub in (*figures, folder_parser, sample_parser, app_parser):
        sub.add_argument(
            "--network", default="cifar10", help="name, Hub repository, folder or .pt; default: %(default)s"
        )
    for sub in (*figures, folder_parser, sample_parser):
        sub.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    command(networks, "diffaug networks")
    add_convert_options(command(convert, "diffaug convert 256x256_diffusion_uncond.pt adm256/"))
    return parser


def add_convert_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ckpt", type=Path, metavar="CKPT", help="OpenAI .pt file")
    parser.add_argument("dst", type=Path, metavar="DST", help="a new folder")
    parser.add_argument("--flags", help="OpenAI's flags as their README prints them, where the file has another name")


def add_figure_options(parser: argparse.ArgumentParser) -> None:
    output = Path(f"diffaug_{parser.prog.split()[-1]}.png")
    parser.add_argument("--timesteps", default=FIGURE_TIMESTEPS, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=output, help="default: %(default)s")


def add_folder_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("src", metavar="SRC", help="folder tree of images; for Ray also of Parquet files or tars")
    parser.add_argument("dst", metavar="DST", help="where the copies go, in the same tree; for Ray: shards")
    parser.add_argument("--with", choices=METHODS, default="diffaug", dest="method", help="default: %(default)s")
    parser.add_argument("--weights", help="file for deepaugment:cae (required) and deepaugment:edsr")
    parser.add_argument("--timesteps", help="500, 50,100,150 or start:stop:step; default: the network's own")
    parser.add_argument("--copies", type=int, default=1, help="per image; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--resize", type=int, help="first resize the shorter side to this many pixels")
    parser.add_argument("--crop", type=int, help="then cut out the centre of this many pixels")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="default: %(default)s")
    parser.add_argument("--workers", type=int, help="networks that Ray runs; default: one per GPU, or per core")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; every error is one line on standard error. Exit code 1: files were skipped; 2: it failed."""
    args = build_parser().parse_args(argv)
    warnings.showwarning = lambda message, *_: print(f"diffaug: warning: {message}", file=sys.stderr)
    try:
        return args.function(args)
    except KeyboardInterrupt:
        resumes = "; the same command resumes where it was" if args.function.__name__ == "augment" else ""
        print(f"diffaug: stopped{resumes}", file=sys.stderr)
        return 130
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
        print(f"diffaug: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
