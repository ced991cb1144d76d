"""The paper's table of classifier guidance: a noisy classifier's and a denoise-augmented one's, with equal noise.

    python -m benchmarks.guidance --data uoft-cs/cifar10 --extractor cifar10-baseline \\
        --classifier runs/guidance/{noisy,denoise-augmented}-{0,1} --samples 5000 --scales 0 1 2 --cfg-scales 1 2

An unconditional network, or a conditional one without its labels, is guided by each classifier at each scale, by the
total derivative; at `--partial-scales` by the denoise-augmented one's partial derivative too. Scale 0: no guidance.
`--cfg-scales` adds classifier-free guidance (Ho and Salimans 2022) for a network with a null class; its scale is the
same factor on the gradient of log p(label | x_t). Samples are kept under --work: a stopped run resumes, one with more
samples adds to them if it has the same --batch-size. Several processes share the work if each is given `--share I N`
too: it draws every N-th batch from the I-th on, nothing else. A run without it then takes what they kept.

Samples are judged by features of `--extractor`: "inception", "inception@FILE", or a classifier's folder or name.
Records and tables name it, because numbers from two extractors cannot be compared. "real images" are those of the other
split: a bound. Beside samples: accuracy at uniform random times, gradients and their cost (see gradients.py). Writes
the records, and beside them samples and gradients as pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from diffaug_transforms import ScoreNetwork, load_score_network
from diffaug_transforms.robustness.datasets import random_subset
from diffaug_transforms.robustness.evaluation.sets import HubImages, center_crop
from diffaug_transforms.robustness.jacobian import without_tf32
from diffaug_transforms.score import Denoiser
from diffaug_transforms.score.sampling import METHODS

from ..harness.data import side_of
from ..harness.options import (
    default_device,
    default_workers,
    nonnegative_float,
    nonnegative_int,
    positive_int,
    script_parser,
)
from ..harness.pictures import draw_rows
from ..harness.records import RESULTS, Record, write_results
from ..tables.guidance import title
from .features import NEAREST_K, Extractor, Features, all_metrics, features_of, open_extractor
from .gradients import REFERENCE, accuracy, alignment, cost, draw_gradients, gradients_of
from .sampling import (
    Classifier,
    OpenedClassifier,
    SamplingConfig,
    all_samples,
    learning_curve,
    make_configs,
    open_guidance,
)

COLUMNS = 10


def parse_arguments() -> argparse.Namespace:
    common: dict[str, Any] = {
        "data": "uoft-cs/cifar10",
        "network": "cifar10",
        "rounds": 5,
        "batch_size": 100,
        "seed": 0,
    }
    common |= {"timesteps": [50, 100, 200, 350, 500, 700]}
    parser = script_parser(__doc__, **common, work=Path("runs/guidance_samples"), output=RESULTS / "guidance.json")
    parser.add_argument("--classifier", nargs="+", required=True, help="folders or files of guidance classifiers")
    parser.add_argument("--extractor", required=True, help="see above")
    parser.add_argument("--samples", type=positive_int, default=5000, help="of each classifier, derivative and scale")
    parser.add_argument("--scales", type=nonnegative_float, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cfg-scales", type=nonnegative_float, nargs="*", default=[])
    parser.add_argument(
        "--partial-scales", type=nonnegative_float, nargs="*", default=[1], help="scales of the partial derivative"
    )
    parser.add_argument("--method", choices=METHODS, default="ddim")
    parser.add_argument("--steps", type=positive_int, default=25)
    parser.add_argument(
        "--nearest-k", type=positive_int, help="default: 3 for precision and recall, 5 for density and coverage"
    )
    parser.add_argument("--reference", choices=("test", "train"), default="test", help="what samples are held against")
    parser.add_argument("--reference-images", type=positive_int, default=10_000, help="of them, at most")
    parser.add_argument("--accuracy-images", type=positive_int, default=10_000, help="test images at most")
    parser.add_argument(
        "--gradient-images", type=positive_int, default=100, help="test images whose gradients are compared"
    )
    parser.add_argument("--cost-images", type=positive_int, default=32, help="in a batch")
    parser.add_argument("--pictures", type=nonnegative_int, default=2, help="test images whose gradients are drawn")
    parser.add_argument(
        "--share", type=nonnegative_int, nargs=2, metavar=("I", "N"), help="only draw samples, see above"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if records := run(args):
        write_results("guidance", records, args.output)


def run(args: argparse.Namespace) -> list[Record]:
    """All records; none if only a share of the samples is drawn."""
    device = default_device()
    network = Denoiser(args.network).ready(device)
    opened = [open_guidance(spec, args.network, device) for spec in args.classifier]
    configs = list(make_configs(opened, network, args))
    if args.share:
        all_samples(
            configs, network, len(HubImages(args.data).classes), args, slice(args.share[0], None, args.share[1])
        )
        return []
    records = of_training(args.classifier)
    with without_tf32():  # alignment is with a small difference
        records += of_classifiers(opened, network, args)
    records += of_samples(configs, network, args)
    common = {"benchmark": "guidance", "dataset": Path(args.data).name, "network": args.network}
    return [{**common, **r} for r in records]


def read_split(args: argparse.Namespace, split: str, limit: int, size: int) -> tuple[Tensor, Tensor, list[str]]:
    """The first images of a random order, uint8 (N, 3, size, size), their labels (N,), and the names of all classes."""
    data = HubImages(args.data, split, center_crop(size))
    loader = DataLoader(random_subset(data, limit), args.batch_size, num_workers=default_workers())
    pixels, labels = zip(*loader)
    return torch.cat(pixels), torch.cat(labels), data.classes


def of_training(specs: Sequence[str]) -> list[Record]:
    """Test accuracies over the training. A start that classifiers share comes once."""
    points = [{"mode": "training", "metric": "accuracy", **point} for spec in specs for point in learning_curve(spec)]
    return [point for place, point in enumerate(points) if point not in points[:place]]


def of_classifiers(
    opened: Sequence[OpenedClassifier], sampling: ScoreNetwork, args: argparse.Namespace
) -> Iterator[Record]:
    """Accuracy at random times, alignment of gradients, their cost; and their picture."""
    # In float32, for the alignment.
    network = load_score_network(args.network).to(default_device())
    images, labels, _ = read_split(args, "test", args.accuracy_images, side_of(network))
    few = images[: args.gradient_images], labels[: args.gradient_images]
    firsts: dict[str, Classifier] = {}
    for one in opened:
        for r in accuracy(one.by_derivative["total"], network, images, labels, args.seed, args.batch_size):
            yield {**one.fields, "mode": "diffused", **r}
        for derivative, classifier in one.by_derivative.items():
            firsts.setdefault(title({**one.fields, "mode": derivative}), classifier)
            for r in alignment(classifier, network, *few, args.timesteps, args.seed):
                yield {**one.fields, "mode": derivative, **r}
    shown = images[: args.pictures], labels[: args.pictures]
    draw_gradients(firsts, network, *shown, args.timesteps, args.output.with_name(f"{args.output.stem}_gradients.png"))
    batch = images[: args.cost_images], labels[: args.cost_images]
    gradients = gradients_of(firsts, sampling, *batch)
    if REFERENCE in gradients:
        for r in cost(gradients, len(batch[0]), args.rounds, default_device()):
            yield {"seed": 0, "mode": "cost", **r}


def of_samples(configs: Sequence[SamplingConfig], network: ScoreNetwork, args: argparse.Namespace) -> Iterator[Record]:
    """Every metric of every kind of samples, and of real images that are not the reference."""
    extractor = open_extractor(args.extractor, default_device())
    reference, _, names = read_split(args, args.reference, args.reference_images, side_of(network))
    others = {"test": "train", "train": "test"}[args.reference]
    photos, labels, _ = read_split(args, others, args.samples, side_of(network))
    real = features_of(extractor, reference)
    common = {"reference": args.reference, "seed": 0, "mode": "", "scale": 0.0}
    for r in of_images(photos, labels, names, extractor, real, args.nearest_k):
        yield {**common, "recipe": "real images", **r}
    drawn = all_samples(configs, network, len(names), args)
    samples = {name: images for name, (images, _) in drawn.items()}
    draw_samples_grid(configs, samples, names, args.output.with_suffix(".png"))
    for config in configs:
        images, seconds = drawn[config.name]
        labels = torch.arange(len(images)) % len(names)
        fields = {**common, **config.fields, "sampler": f"{args.method}-{args.steps}", "noise_seed": args.seed}
        for r in of_images(images, labels, names, extractor, real, args.nearest_k):
            yield {**fields, **r}
        yield {**fields, "metric": "seconds_per_image", "value": round(seconds / len(images), 5), "n": len(images)}


def of_images(
    images: Tensor, labels: Tensor, names: Sequence[str], extractor: Extractor, real: Features, nearest_k: int | None
) -> Iterator[Record]:
    """Every metric; ``label_accuracy``: the percentage to which the extractor gives their label, if it knows them."""
    found = features_of(extractor, images)
    metrics = all_metrics(real, found, nearest_k)
    if extractor.classes == tuple(names):
        metrics["label_accuracy"] = 100 * (found.probabilities.argmax(1) == labels).float().mean().item()
    common = {"n": len(images), "n_reference": len(real.pooled), "extractor": extractor.name}
    for metric, value in metrics.items():
        extra: dict[str, Any] = {"layer": extractor.layer} if metric == "sfid" else {}
        if metric in NEAREST_K:
            number = min(len(images), len(real.pooled))
            extra |= {"n": number, "n_reference": number, "nearest_k": nearest_k or NEAREST_K[metric]}
        yield {"metric": metric, "value": round(value, 5), **common, **extra}


def draw_samples_grid(
    configs: Sequence[SamplingConfig], drawn: dict[str, Tensor], names: Sequence[str], path: Path
) -> None:
    """The first samples of each kind of guidance and scale, one row each. A column has the same noise and class."""
    rows: dict[str, Sequence[Tensor]] = {}
    for config in configs:
        scale = f", scale {config.fields['scale']:g}" if config.fields["scale"] else ""
        rows.setdefault(title(config.fields) + scale, list(drawn[config.name][:COLUMNS] / 255))
    width = max(map(len, rows.values()))
    draw_rows(rows, [names[i % len(names)] for i in range(width)], path)


if __name__ == "__main__":
    main()
