"""Entropy of a classifier's predictions on one-step denoised test images, over t: the paper's figure.

    python -m benchmarks.entropy_over_time --classifier runs/cifar10_recipes/{baseline,diffaug}-{0,1,2}

The larger t is, the less is left of the image. A classifier that knows what it sees should then come near the entropy
of the uniform distribution, log K. All classifiers see the same views. Writes the records and a plot beside them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm

from diffaug_transforms import DiffAug
from diffaug_transforms.robustness.datasets import random_subset
from diffaug_transforms.robustness.evaluation.answers import entropy, log_probabilities
from diffaug_transforms.robustness.metrics import correct
from diffaug_transforms.score import Denoiser

from .harness.classifiers import open_classifiers
from .harness.data import open_set, read_images
from .harness.options import default_device, positive_int, script_parser
from .harness.pictures import new_figure, save_figure
from .harness.records import RESULTS, Record, summary, write_results
from .harness.tables import frame


def parse_arguments() -> argparse.Namespace:
    output = RESULTS / "entropy_over_time.json"
    common = {"data": "uoft-cs/cifar10", "network": "cifar10", "images": 500, "batch_size": 100, "seed": 0}
    parser = script_parser(__doc__, classifier=(), **common, output=output)
    parser.add_argument("--dataset", choices=("cifar10", "imagenet"), default="cifar10")
    parser.add_argument("--every", type=positive_int, default=25, help="timesteps 0, EVERY, 2 EVERY... and the last")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    records = run(args)
    write_results("entropy_over_time", records, args.output)
    plot(records, args.output.with_suffix(".png"))


@torch.inference_mode()
def run(args: argparse.Namespace) -> list[Record]:
    classifiers, fields = open_classifiers(args.classifier, default_device())
    denoiser = Denoiser(args.network, max_batch=args.batch_size)
    data = random_subset(open_set(args.dataset, args.data), args.images)
    images, targets = read_images(data, range(len(data)))
    common = {"benchmark": "entropy_over_time", "dataset": args.dataset, "network": args.network, "mode": "view"}
    last = denoiser.network.num_timesteps - 1
    records: list[Record] = []
    for t in tqdm(sorted({*range(0, last, args.every), last}), unit="timestep"):
        generator = torch.Generator().manual_seed(hash((args.seed, t)) % 2**63)
        views = DiffAug(denoiser, timesteps=t, generator=generator)(images)
        for spec, classifier in classifiers.items():
            log_p = log_probabilities(classifier, views, args.batch_size)
            here = {**common, **fields[spec], "timestep": t, "classes": log_p.shape[1]}
            records.append({**here, "metric": "entropy", **summary(entropy(log_p), 4)})
            value = 100 * correct(log_p, targets).float().mean().item()
            records.append({**here, "metric": "accuracy", "value": round(value, 3), "n": len(images)})
    return records


def plot(records: Sequence[Record], path: Path) -> None:
    """Mean over seeds with the seeds' range. Recipes with DiffAug are solid, others dashed, the limit is dotted."""
    figure, panels = new_figure(1, 2, (9, 4))
    classes = records[0]["classes"]
    limits = {"entropy (nats)": math.log(classes), "accuracy (%)": 100 / classes}
    uniform = f"uniform answers: log {classes} nats, {100 / classes:g} %"
    for panel, metric, (title, limit) in zip(panels[0], ("entropy", "accuracy"), limits.items()):
        every = frame(records, metric=metric)
        for i, recipe in enumerate(every.recipe.unique()):
            over = every[every.recipe == recipe].groupby("timestep").value
            style = "-" if "diffaug" in recipe else "--"
            panel.plot(over.mean().index, over.mean(), style, color=f"C{i}", label=recipe)
            panel.fill_between(over.mean().index, over.min(), over.max(), color=f"C{i}", alpha=0.15, linewidth=0)
        panel.axhline(limit, color="k", linestyle=":", label=uniform)
        panel.set(xlabel="t", ylabel=title, ylim=(0, None))
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
