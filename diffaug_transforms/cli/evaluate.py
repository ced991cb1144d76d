"""`diffaug evaluate`: accuracy on clean, corrupted and shifted images, alone and with the methods for test time."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from ..robustness.corruptions import CORRUPTIONS
from ..robustness.evaluation import MODES, evaluate
from ..robustness.evaluation.classifiers import parse_normalize
from ..robustness.evaluation.data import DATASETS
from ..robustness.evaluation.evaluate import DEFAULT_MODES
from ..robustness.evaluation.records import write_records
from ..robustness.evaluation.report import plot_results, result_table
from .options import TIMESTEPS_HELP, add_shared, new_command, parse_timesteps

DEFAULT_OUTPUT = "diffaug_evaluate"


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser = new_command(
        commands,
        "evaluate",
        "Measure a classifier's accuracy on clean, corrupted and shifted images, alone and with the methods for test "
        "time. The same command resumes a run that was stopped.",
        "diffaug evaluate cifar10-diffaug uoft-cs/cifar10 --limit 500",
        "diffaug evaluate timm:resnet50 imagenet/val --corruptions fog,contrast --severities 1,3,5 --device cuda",
        "diffaug evaluate torchvision:resnet50 imagenet-r/ --modes default,de,anytime,dda-se",
        "diffaug evaluate mine.pt2 photos/ --normalize imagenet --size 224 --corruptions none",
    )
    text = "cifar10-baseline or cifar10-diffaug, timm:NAME, torchvision:NAME, either with @FILE, efficientnet_lite0 "
    text += "(or 1, 2) from its wheels, a folder of "
    text += "examples/train_classifier.py, a Hub repository of push_classifier_to_hub or of timm (owner/name), or an "
    text += "exported .pt2"
    parser.add_argument("classifier", metavar="CLASSIFIER", help=text)
    text = "folder with a folder for each class, Parquet file, Hub data set, or a published shifted set (CIFAR-10-C, "
    text += "ImageNet-C, -R, -A, -S, -Sketch, -D)"
    parser.add_argument("data", metavar="DATA", help=text)
    known = ", ".join(f"{name} ({mode.description})" for name, mode in MODES.items())
    text = f"with commas between them: {known}; default: %(default)s"
    parser.add_argument("--modes", default=",".join(DEFAULT_MODES), help=text)
    text = "score network: name, Hub repository, folder or .pt; default: cifar10 for images of at most 48 pixels, else "
    parser.add_argument("--network", help=f"{text}photos")
    parser.add_argument("--timesteps", help=f"of the ensemble: {TIMESTEPS_HELP}; default: the network's own")
    text = f"all, none (clean images only), or of {', '.join(CORRUPTIONS)}; default: %(default)s"
    parser.add_argument("--corruptions", default="all", help=text)
    parser.add_argument("--severities", default="5", help="such as 1,3,5; default: %(default)s")
    text = f"which published set DATA is, if its layout does not tell: {', '.join(DATASETS)}"
    parser.add_argument("--dataset", help=text)
    parser.add_argument("--split", help="of DATA; default: test, or the first of validation, val, valid")
    text = "side of the images in pixels: the shorter side is resized and the centre cut out; default: the classifier's"
    parser.add_argument("--size", type=int, help=text)
    text = "of the classifier: none, imagenet, or MEAN/STD such as 0.5,0.5,0.5/0.25,0.25,0.25; default: read from the "
    text += "folder, from timm's configuration or torchvision's transforms"
    parser.add_argument("--normalize", help=text)
    parser.add_argument("--limit", type=int, help="only the first N images of a random order")
    parser.add_argument("--batch-size", type=int, default=50, help="images at once; default: %(default)s")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images; default: %(default)s")
    text = "the classifier runs under bfloat16 autocast: faster on most devices, and close decisions may change"
    parser.add_argument("--amp", action="store_true", help=text)
    text = "folder for records.json, table.md, accuracy.png and finished parts; default: "
    parser.add_argument("--output", type=Path, help=f"{text}{DEFAULT_OUTPUT}/CLASSIFIER_DATA")
    add_shared(parser, "device", "seed")
    return parser


def run(args: argparse.Namespace) -> int:
    names = {"all": None, "none": ()}
    corruptions = names[args.corruptions] if args.corruptions in names else tuple(args.corruptions.split(","))
    output = args.output or default_output(args.classifier, args.data)
    records = evaluate(
        args.classifier,
        args.data,
        modes=args.modes.split(","),
        network=args.network,
        timesteps=None if args.timesteps is None else parse_timesteps(args.timesteps),
        corruptions=corruptions,
        severities=parse_severities(args.severities),
        dataset=args.dataset,
        split=args.split,
        size=args.size,
        normalize=None if args.normalize is None else parse_normalize(args.normalize),
        limit=args.limit,
        batch_size=args.batch_size,
        workers=args.workers,
        seed=args.seed,
        device=args.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        amp=args.amp,
        output=output / "parts",
        progress=True,
    )
    if int(os.environ.get("RANK", "0")) == 0:
        write_report(records, output)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return 0


def default_output(classifier: str, data: str) -> Path:
    """A folder for each pair of them, so that one run's results do not replace another's."""
    names = (re.sub(r"[^\w.-]+", "-", name).strip("-.") for name in (classifier, data))
    return Path(DEFAULT_OUTPUT) / "_".join(names)


def write_report(records: list[dict[str, Any]], output: Path) -> None:
    """The records, the table and the picture; the table is printed too."""
    write_records(shlex.join(["diffaug", *sys.argv[1:]]), records, output / "records.json")
    table = result_table(records)
    (output / "table.md").write_text(table)
    print(table)
    written = ["records.json", "table.md", "accuracy.png"]
    try:
        plot_results(records, output / "accuracy.png")
    except ImportError as error:
        written.pop()
        print(f"diffaug: no picture: {error}", file=sys.stderr)
    print(f"Wrote {', '.join(str(output / name) for name in written)}")


def parse_severities(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"severities must be integers in 1...5, such as 1,3,5. Got {text!r}") from None
