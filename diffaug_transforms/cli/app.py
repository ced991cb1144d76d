"""`diffaug app`: a page to play with in the browser."""

from __future__ import annotations

import argparse
from typing import Any

from ..app.server import serve
from .options import NETWORK_HELP, add_shared, find_device, new_command

DEFAULT_CLASSIFIERS = ("cifar10-diffaug", "cifar10-baseline")


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser = new_command(
        commands,
        "app",
        "Serve a page to play with in the browser: diffuse, denoise and classify a picture.",
        "diffaug app",
        "diffaug app --classifier runs/a --classifier cifar10-baseline --network google/ddpm-cifar10-32 --port 8000",
    )
    text = "default: %(default)s, this machine only; on another host, visitors may choose only named networks"
    parser.add_argument("--host", default="127.0.0.1", help=text)
    parser.add_argument("--port", type=int, default=7860, help="0: any free one; default: %(default)s")
    text = (
        "an embedded name, a folder of examples/train_classifier.py, a Hub repository of push_classifier_to_hub or of "
    )
    text += "timm (owner/name), timm:NAME or torchvision:NAME, either with @FILE; may be repeated, the first is shown "
    text += f"first; default: {' and '.join(DEFAULT_CLASSIFIERS)}. If none is for photos, an ImageNet classifier comes "
    text += "after them, if one is installed"
    parser.add_argument("--classifier", action="append", metavar="CLASSIFIER", help=text)
    text = (
        f"{NETWORK_HELP}; default: %(default)s. Pictures of quite another size get the embedded network that fits them"
    )
    parser.add_argument("--network", default="cifar10", help=text)
    add_shared(parser, "device")
    return parser


def run(args: argparse.Namespace) -> int:
    classifiers = args.classifier or DEFAULT_CLASSIFIERS
    serve(classifiers, args.network, host=args.host, port=args.port, device=find_device(args.device))
    return 0
