"""The paper's table of classifier guidance: a noisy classifier's and a denoise-augmented one's, with equal noise.

    python benchmarks/guidance.py --data uoft-cs/cifar10 --extractor runs/cifar10_recipes/baseline-0 \\
        --classifier runs/guidance/{noisy,denoise-augmented}-{0,1} --samples 5000 --scales 0 1 2 --cfg-scales 1 2

An unconditional network, or a conditional one without its labels, is guided by each classifier at each scale, by the
total derivative; at `--partial-scales` by the denoise-augmented one's partial derivative too. Scale 0: no guidance.
`--cfg-scales` adds classifier-free guidance (Ho and Salimans 2022) where the network has a null class; its scale is the
same factor on the gradient of log p(label | x_t). Samples are kept under --work, batch by batch of all ways: a stopped
run resumes, one with more samples adds to them. Several processes share the work where each is told `--share I N` too
(every N-th batch from the I-th on, nothing else); a run without it then takes what they kept.

Samples are judged by features of `--extractor`: "inception", "inception@FILE", or a classifier's folder. Records and
tables name it, for numbers of two extractors cannot be compared. "real images" are those of the other split: a bound.
Beside samples: accuracy at uniform random times, gradients and their cost (see guidance_gradients.py). Writes records
as JSON, and beside it grids of samples and a picture of gradients.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from feature_extractors import Extractor, features_of, open_extractor
from generation_metrics import NEAREST_K, Features, all_metrics
from gradient_pictures import draw_panels
from guidance_gradients import REFERENCE, accuracy, alignment, cost, draw_gradients, gradients_of
from guidance_tables import title
from guidance_ways import Classifier, Opened, Way, all_samples, make_ways, open_guidance
from ood_inputs import read_hub
from records import RESULTS, Record, write_results
from torch import Tensor
from torchvision.utils import make_grid
from tqdm.auto import tqdm

from diffaug_transforms import ScoreNetwork, load_score_network
from diffaug_transforms.score.sampling import METHODS
from diffaug_transforms.transforms.lazy import fast_dtype

MANIFOLD = ("precision", "recall", "density", "coverage")
GRID = 10  # images a side
#: By a way's name: its samples, uint8 (N, C, H, W), and the seconds that they took.
Drawn = dict[str, tuple[Tensor, float]]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="uoft-cs/cifar10", help="Hub id or local folder in the Hub's layout")
    parser.add_argument("--network", default="cifar10", help="that samples, as load_score_network takes it")
    parser.add_argument("--classifier", nargs="+", required=True, help="folders or files of guidance classifiers")
    parser.add_argument("--extractor", required=True, help="see above")
    parser.add_argument("--samples", type=int, default=5000, help="of each classifier, derivative and scale")
    parser.add_argument("--scales", type=float, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cfg-scales", type=float, nargs="*", default=[])
    parser.add_argument("--partial-scales", type=float, nargs="*", default=[1], help="scales of the partial derivative")
    parser.add_argument("--method", choices=METHODS, default="ddim")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0, help="of all noise")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--nearest-k", type=int, default=NEAREST_K, help="of precision, recall, density and coverage")
    parser.add_argument("--reference", choices=("test", "train"), default="test", help="what samples are held against")
    parser.add_argument("--reference-images", type=int, default=10_000, help="of them, at most")
    parser.add_argument("--accuracy-images", type=int, default=10_000, help="test images at most")
    parser.add_argument("--gradient-images", type=int, default=100, help="test images whose gradients are compared")
    parser.add_argument("--timesteps", type=int, nargs="+", default=[50, 100, 200, 350, 500, 700])
    parser.add_argument("--cost-images", type=int, default=32, help="in a batch")
    parser.add_argument("--repeats", type=int, default=5, help="of the cost's measurement")
    parser.add_argument("--pictures", type=int, default=2, help="test images whose gradients are drawn")
    parser.add_argument("--share", type=int, nargs=2, metavar=("I", "N"), help="only draw samples, see above")
    parser.add_argument("--work", type=Path, default=Path("runs/guidance_samples"))
    parser.add_argument("--output", type=Path, default=RESULTS / "guidance.json", help="the pictures are beside it")
    return parser.parse_args()


def read_split(args: argparse.Namespace, split: str, limit: int, size: int) -> tuple[Tensor, Tensor, list[str]]:
    """The first images of a random order, uint8 (N, 3, size, size), their labels (N,), and the names of all classes."""
    images, names = read_hub(split, args.data, size, size, split=split)
    chosen = images.subset(min(limit, len(images)))
    pixels = [chosen[i] for i in tqdm(range(len(chosen)), desc=split, leave=False)]
    return torch.stack(pixels), torch.tensor([label for (label,) in chosen.labels]), names


def of_images(
    images: Tensor, labels: Tensor, names: Sequence[str], extractor: Extractor, real: Features, nearest_k: int
) -> Iterator[Record]:
    """Every metric; ``label_accuracy``: the percentage to which the extractor gives their label, if it knows them."""
    found = features_of(extractor, images)
    metrics = all_metrics(real, found, nearest_k)
    if extractor.classes == tuple(names):
        metrics["label_accuracy"] = 100 * (found.probabilities.argmax(1) == labels).float().mean().item()
    common = {"n": len(images), "n_reference": len(real.pooled), "extractor": extractor.name}
    for metric, value in metrics.items():
        extra: dict[str, Any] = {"layer": extractor.layer} if metric == "sfid" else {}
        extra |= {"nearest_k": nearest_k} if metric in MANIFOLD else {}
        yield {"metric": metric, "value": round(value, 5), **common, **extra}


def of_samples(
    ways: Sequence[Way], network: ScoreNetwork, args: argparse.Namespace, device: torch.device
) -> Iterator[Record]:
    """What the extractor says of every way's samples, and of real images that are not the reference."""
    extractor = open_extractor(args.extractor, device)
    reference, _, names = read_split(args, args.reference, args.reference_images, network.image_size)
    others = {"test": "train", "train": "test"}[args.reference]
    photos, labels, _ = read_split(args, others, args.samples, network.image_size)
    real = features_of(extractor, reference)
    common = {"reference": args.reference, "seed": 0, "mode": "", "scale": 0.0}
    for r in of_images(photos, labels, names, extractor, real, args.nearest_k):
        yield {**common, "recipe": "real images", **r}
    drawn = all_samples(ways, network, len(names), args)
    draw_grids(ways, drawn, len(names), args.output.with_suffix(".png"))
    for way in ways:
        images, seconds = drawn[way.name]
        labels = torch.arange(len(images)) % len(names)
        fields = {**common, **way.fields, "sampler": f"{args.method}-{args.steps}", "noise_seed": args.seed}
        for r in of_images(images, labels, names, extractor, real, args.nearest_k):
            yield {**fields, **r}
        yield {**fields, "metric": "seconds_per_image", "value": round(seconds / len(images), 5), "n": len(images)}


def of_classifiers(
    opened: Sequence[Opened], sampling: ScoreNetwork, args: argparse.Namespace, device: torch.device
) -> Iterator[Record]:
    """Accuracy at random times, alignment of gradients, their cost; and their picture."""
    network = load_score_network(args.network).to(device)  # float32, for alignment is with a small difference
    images, labels, _ = read_split(args, "test", args.accuracy_images, network.image_size)
    firsts: dict[str, Classifier] = {}
    for one in opened:
        for r in accuracy(one.by_derivative["total"], network, images, labels, args.seed, args.batch_size):
            yield {**one.fields, "mode": "diffused", **r}
        for derivative, classifier in one.by_derivative.items():
            firsts.setdefault(title({**one.fields, "mode": derivative}), classifier)
            few = images[: args.gradient_images], labels[: args.gradient_images]
            for r in alignment(classifier, network, *few, args.timesteps, args.seed):
                yield {**one.fields, "mode": derivative, **r}
    few = images[: args.pictures], labels[: args.pictures]
    draw_gradients(firsts, network, *few, args.timesteps, args.output.with_name(f"{args.output.stem}_gradients.png"))
    batch = images[: args.cost_images], labels[: args.cost_images]
    gradients = gradients_of(firsts, sampling, *batch)
    if REFERENCE in gradients:
        yield from ({"seed": 0, "mode": "cost", **r} for r in cost(gradients, len(batch[0]), args.repeats, device))


def draw_grids(ways: Sequence[Way], drawn: Drawn, classes: int, path: Path) -> None:
    """Grids of the first samples, with the same noise: guidance across, scales down; each column of one is a class."""
    columns = list(dict.fromkeys(title(way.fields) for way in ways))
    scales = sorted({way.fields["scale"] for way in ways} - {0}) or [0]
    lines: dict[float, list[Tensor | None]] = {scale: [None] * len(columns) for scale in scales}
    width = min(classes, GRID)
    for way in reversed(ways):  # of several seeds the first stays; no guidance is beside the lowest scale
        line = lines[max(way.fields["scale"], scales[0])]
        line[columns.index(title(way.fields))] = make_grid(drawn[way.name][0][: width * GRID], width, pad_value=255)
    draw_panels({f"scale {s:g}": line for s, line in lines.items()}, columns, path, cell=4.0, left=0.8)


def run(args: argparse.Namespace) -> list[Record]:
    """All records; none where only a share of the samples is drawn."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = load_score_network(args.network).to(device, fast_dtype(device)).to(memory_format=torch.channels_last)
    opened = [open_guidance(spec, args.network, device) for spec in args.classifier]
    ways = list(make_ways(opened, network, args))
    if args.share:
        _, names = read_hub("test", args.data, network.image_size, network.image_size)
        all_samples(ways, network, len(names), args, slice(args.share[0], None, args.share[1]))
        return []
    records = [*of_classifiers(opened, network, args, device), *of_samples(ways, network, args, device)]
    common = {"benchmark": "guidance", "dataset": Path(args.data).name, "network": args.network}
    return [{**common, **r} for r in records]


def main() -> None:
    args = parse_arguments()
    if records := run(args):
        write_results(__file__, records, args.output)


if __name__ == "__main__":
    main()
