"""What Purify brings a classifier on noisy images, and whether it leaves others alone: accuracy, plain and purified.

    python -m benchmarks.purify                         # CIFAR-10 from the Hub, corrupted on the fly
    python -m benchmarks.purify --images 1000 --corruptions gaussian_noise clean

Every mode sees the same images. Quantiles of ``estimate_sigma`` over clean training images come first: the gate is the
one of 0.99. Nothing else was used to choose it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset
from tqdm.auto import tqdm

from diffaug_transforms import Purify
from diffaug_transforms.classifiers import EMBEDDED, load_classifier
from diffaug_transforms.robustness import CORRUPTIONS
from diffaug_transforms.transforms import estimate_sigma

from .harness.data import HubImages, open_set, read_images
from .harness.options import default_device, script_parser
from .harness.records import RESULTS, Record, summary, write_results

QUANTILES = (0.5, 0.95, 0.99, 0.999)


def parse_arguments() -> argparse.Namespace:
    defaults: dict[str, Any] = {"data": "uoft-cs/cifar10", "network": "cifar10", "batch_size": 100, "seed": 0}
    parser = script_parser(__doc__, **defaults, output=RESULTS / "purify.json")
    parser.add_argument("--images", type=int, default=500, help="the first N test images")
    parser.add_argument("--gate-images", type=int, default=10_000, help="the first N training images")
    parser.add_argument("--corruptions", nargs="+", default=["clean", *CORRUPTIONS])
    parser.add_argument("--severity", type=int, default=5)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    device = default_device()
    records = list(quantiles(args))
    purify = Purify(args.network).to(device)
    classifiers: dict[str, nn.Module] = {name: load_classifier(name).to(device).eval() for name in EMBEDDED}
    for corruption in tqdm(args.corruptions):
        records += accuracies(corruption, purify, classifiers, args)
    write_results("purify", records, args.output)


def quantiles(args: argparse.Namespace) -> Iterator[Record]:
    train = HubImages(args.data, split="train")
    sigmas = torch.cat([estimate_sigma(train[i][0]) for i in tqdm(range(min(args.gate_images, len(train))))])
    same = {"benchmark": "purify", "dataset": Path(args.data).name, "split": "train", "metric": "estimated_sigma"}
    for q in QUANTILES:
        yield {**same, "quantile": q, "value": round(sigmas.quantile(q).item(), 5), "n": len(sigmas)}


@torch.inference_mode()
def accuracies(
    corruption: str, purify: Purify, classifiers: dict[str, nn.Module], args: argparse.Namespace
) -> Iterator[Record]:
    """Accuracy with and without Purify, and the mean of both answers, as ``SelfEnsemble`` gives it."""
    severity = 0 if corruption == "clean" else args.severity
    data = open_set("cifar10-c", args.data, corruption, severity)
    images, labels = read_images(Subset(data, range(args.images)), range(args.images))
    parts = images.split(args.batch_size)
    params = [purify.make_params([part]) for part in parts]
    purified = torch.cat([purify.transform(part, draw) for part, draw in zip(parts, params)])
    same = {"benchmark": "purify", "dataset": "cifar10-c", "network": args.network, "seed": args.seed}
    same |= {"corruption": corruption, "severity": severity}
    for metric, key in (("estimated_sigma", "sigmas"), ("network_calls", "selected")):
        yield {**same, "metric": metric, **summary(torch.cat([draw[key] for draw in params]))}
    for name, classifier in classifiers.items():
        plain, once = (
            torch.cat([classifier(part) for part in batch.split(args.batch_size)]).softmax(dim=1)
            for batch in (images, purified)
        )
        right = {
            mode: (p.argmax(dim=1) == labels).double() * 100
            for mode, p in (("default", plain), ("purify", once), ("purify-se", plain + once))
        }
        for mode, values in right.items():
            gain = summary(values - right["default"], 2)
            fields = {"model": name, "recipe": name.removeprefix("cifar10-"), "mode": mode, "metric": "accuracy"}
            paired = {"gain": gain["value"], "gain_error": gain["standard_error"]}
            yield {**same, **fields, **summary(values, 2), **paired}


if __name__ == "__main__":
    main()
