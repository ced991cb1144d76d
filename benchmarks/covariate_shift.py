"""The paper's covariate-shift tables: classifiers under Default, DDA, DDA-SE and DE on corrupted or shifted images.

    python -m benchmarks.covariate_shift --dataset cifar10-c --data uoft-cs/cifar10 --limit 200 \\
        --classifier runs/cifar10_recipes/{baseline,diffaug}-0 --timesteps network paper
    accelerate launch -m benchmarks.covariate_shift --dataset imagenet-c --data data/imagenet-c \\
        --network imagenet256 --classifier resnet50 timm/deit3_base_patch16_224 resnet50@diffaug.pth
    python -m benchmarks.covariate_shift --dataset tiny-imagenet-c --data zh-plus/tiny-imagenet --network photos \\
        --limit 1000 --modes default de anytime purify --classifier runs/tiny/{baseline,diffaug} \\
        --timesteps network paper 0,23,48,76,106,138,175,216,262,312    # the last: the paper's matched to 128 pixels

All classifiers see the same views of the same images, whatever the batch size and the number of processes. Finished
(corruption, severity) pairs and DDA's images are kept under --work: the same command resumes. What is kept is used only
for the same options, weights, images and versions. Writes the records, plots entropy and accuracy over t, and prints
the table.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from diffaug_transforms.robustness import CORRUPTIONS, DDA
from diffaug_transforms.robustness.adaptation import BORDERS, START_TIMESTEP
from diffaug_transforms.robustness.datasets import candidate_classes, random_subset
from diffaug_transforms.robustness.evaluation.digests import (
    digest,
    digest_of_classifier,
    digest_of_data,
    digest_of_network,
)
from diffaug_transforms.robustness.evaluation.judging import Options, Part, judge_parts, without_images
from diffaug_transforms.robustness.evaluation.modes import MODES, Views, dda_views, ensemble_views, purify_views
from diffaug_transforms.robustness.evaluation.report import add_summaries
from diffaug_transforms.robustness.evaluation.sets import CROP, holds_corruptions
from diffaug_transforms.score import Denoiser
from diffaug_transforms.score.schedule import ENSEMBLE_TIMESTEPS
from diffaug_transforms.transforms import Purify

from .harness.classifiers import open_classifiers
from .harness.data import SETS, check_classes, every_nth, open_set
from .harness.options import default_workers, nonnegative_float, positive_int, script_parser
from .harness.pictures import new_figure, save_figure
from .harness.records import RESULTS, Record, write_results
from .harness.tables import frame
from .tables.adaptation import shift_table
from .tables.training import RECIPES, SMALL

#: The lines of several models in a picture.
LINES = ("-", ":", "--", "-.")
#: Arguments that change no part's records.
FREE = ("corruptions", "severities", "work", "output", "mce_baseline", "batch_size", "workers")


def parse_arguments() -> argparse.Namespace:
    work = Path("runs/covariate_shift")
    parser = script_parser(
        __doc__, classifier=(), network="cifar10", batch_size=50, seed=0, work=work, workers=default_workers()
    )
    parser.add_argument("--dataset", choices=SETS, required=True)
    parser.add_argument("--data", required=True, help="published files, or the clean set (folder or Hub id)")
    parser.add_argument(
        "--resize",
        type=positive_int,
        help="ImageNet's images to N pixels before the crop of 224; DDA adapts all of N x N",
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, default=("default", "de", "dda", "dda-se"))
    parser.add_argument(
        "--timesteps", nargs="+", type=timesteps_name, default=["network"], help="network, paper, or a set as 0,25,50"
    )
    parser.add_argument("--dda-scale", type=nonnegative_float, default=6.0, help="of DDA with the network's timesteps")
    parser.add_argument("--dda-downscale", type=positive_int, default=4, help="likewise")
    parser.add_argument("--dda-border", choices=BORDERS, default="normalized", help="zeros: the reference's")
    parser.add_argument("--corruptions", nargs="+", choices=CORRUPTIONS, default=CORRUPTIONS)
    parser.add_argument("--name", help="of the data set in records; default: --dataset")
    parser.add_argument("--mce-baseline", default="alexnet", help="alexnet or a recipe's Default; needs 5 severities")
    parser.add_argument("--severities", nargs="+", type=int, choices=range(1, 6), default=[5])
    parser.add_argument("--every", type=positive_int, default=1, help="only every Nth image, from the first on")
    parser.add_argument("--limit", type=positive_int, help="only the first N images of a random order")
    parser.add_argument("--amp", action="store_true", help="classifiers run under bfloat16 autocast")
    parser.add_argument("--checkpointing", action="store_true", help="DDA in less memory and more time")
    parser.add_argument("--keep-probabilities", action="store_true", help="DE's, for benchmarks.ensemble_rules")
    parser.add_argument("--output", type=Path, help="default: covariate_shift_NAME.json in results/")
    return parser.parse_args()


def timesteps_name(text: str) -> str:
    """What ``--timesteps`` takes: "network", "paper", or integers with commas between them."""
    if text not in ("network", "paper") and not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"it must be network, paper or integers such as 0,25,50. Got {text}")
    return text


def main() -> None:
    from accelerate import Accelerator

    args = parse_arguments()
    on_cpu = not torch.accelerator.is_available()  # said, so that torchrun's processes on CPUs find each other
    accelerator = Accelerator(cpu=on_cpu)
    records = run(args, accelerator)
    if accelerator.is_main_process:
        path = args.output or RESULTS / f"covariate_shift_{args.name or args.dataset}.json"
        write_results("covariate_shift", records, path)
        plot_over_time(records, path.with_suffix(".png"))
        print(shift_table(frame(records), args.mce_baseline))
    # A process that leaves while others still talk to it may abort.
    accelerator.wait_for_everyone()
    accelerator.end_training()


def run(args: argparse.Namespace, accelerator: Any) -> list[Record]:
    classifiers, fields = open_classifiers(args.classifier, accelerator.device, args.amp)
    name = args.name or args.dataset
    settings = {key: str(value) for key, value in sorted(vars(args).items()) if key not in FREE}
    settings |= {"device": accelerator.device.type, "weights": digest_of_weights(args.network, classifiers, fields)}
    options = Options(
        args.modes,
        args.batch_size,
        args.workers,
        args.seed,
        candidates=candidate_classes(args.dataset),
        crop=CROP if args.resize else None,
        keep_probabilities=args.keep_probabilities,
        calls=True,
    )
    head = {"benchmark": "covariate_shift", "dataset": name}
    tail = {"network": args.network} | ({"resize": args.resize} if args.resize else {})
    parts = open_parts(args, classifiers, settings)
    views = make_views(args, first_shape(args))
    work, total = args.work / name, len(pairs(args))
    found = judge_parts(parts, classifiers, fields, views, accelerator, options, work, head, tail, total)
    return without_images(record for own in by_classifier(found) for record in add_summaries(own))


def by_classifier(records: Sequence[Record]) -> list[list[Record]]:
    """The records of each classifier."""
    found: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        found.setdefault((record["model"], record["recipe"], record["seed"]), []).append(record)
    return list(found.values())


def open_parts(
    args: argparse.Namespace, classifiers: dict[str, nn.Module], settings: Record
) -> Iterator[tuple[Part, Record]]:
    """Each part of the data set with all that its records depend on."""
    for corruption, severity in pairs(args):
        images = open_set(args.dataset, args.data, corruption, severity, resize=args.resize)
        images = every_nth(images, args.every)
        images = random_subset(images, args.limit) if args.limit else images
        check_classes(images, classifiers)
        yield Part(corruption, severity, images), {**settings, "images": digest_of_data(images)}


def digest_of_weights(network: str, classifiers: dict[str, nn.Module], fields: dict[str, dict[str, Any]]) -> str:
    digests = [digest_of_classifier(classifier, fields[spec]) for spec, classifier in classifiers.items()]
    return digest(digest_of_network(Denoiser(network).network), *digests)


def pairs(args: argparse.Namespace) -> list[tuple[str, int]]:
    """(corruption, severity) of all parts of the data set; the clean part of a corrupted set, if any, comes first."""
    corrupted = list(product(args.corruptions, args.severities)) if args.dataset.endswith("-c") else []
    return corrupted if holds_corruptions(Path(args.data)) else [("clean", 0), *corrupted]


def first_shape(args: argparse.Namespace) -> tuple[int, ...]:
    """The shape of the first image, (3, H, W). All images of a set have one size."""
    corruption, severity = pairs(args)[0]
    return tuple(open_set(args.dataset, args.data, corruption, severity, resize=args.resize)[0][0].shape)


def make_views(args: argparse.Namespace, shape: tuple[int, ...]) -> list[Views]:
    """As ``args.modes`` needs them: DE for each of ``args.timesteps``, DDA for the network's and the paper's.

    Purify has its own noise level, so it is there once, in the first line of the table. The timesteps of a network
    without a size of its own are those for images of ``shape``.
    """
    denoiser = Denoiser(args.network, max_batch=args.batch_size)
    crop = CROP if args.resize else None
    known = {"paper": tuple(ENSEMBLE_TIMESTEPS), "network": denoiser.default_timesteps("ensemble", shape)}
    views = []
    if {"purify", "purify-se"} & set(args.modes):
        views.append(purify_views(Purify(denoiser), args.timesteps[0], crop))
    for timesteps in args.timesteps:
        if {"de", "anytime"} & set(args.modes):
            steps = known[timesteps] if timesteps in known else tuple(map(int, timesteps.split(",")))
            views.append(ensemble_views(denoiser, timesteps, steps, crop))
        if {"dda", "dda-se"} & set(args.modes) and timesteps in known:
            # The reference's DDA for the paper's timesteps; else the network's start and the options' guide.
            reference: dict[str, Any] = {"start_timestep": START_TIMESTEP}
            own: dict[str, Any] = {"guidance_scale": args.dda_scale, "downscale": args.dda_downscale}
            chosen = reference if timesteps == "paper" else own
            dda = DDA(denoiser.network, border=args.dda_border, checkpointing=args.checkpointing, **chosen)
            views.append(dda_views(dda, timesteps, Path(args.network).stem, args.seed, crop, shape))
    return views


def plot_over_time(records: Sequence[Record], path: Path) -> None:
    """Accuracy and entropy of DE's single views over t: a column for corrupted images, and one for clean images."""
    views = frame(records, mode="view")
    if not len(views):
        return
    images = views.corruption.where(views.corruption == "clean", "corrupted")
    kinds = sorted(images.unique(), reverse=True)
    figure, panels = new_figure(2, len(kinds), (4.6 * len(kinds), 6), sharex=True, sharey="row")
    for line, (metric, title) in zip(panels, {"accuracy": "accuracy (%)", "entropy": "entropy (nats)"}.items()):
        line[0].set_ylabel(title)
        for panel, kind in zip(line, kinds):
            plot_curves(panel, views[(views.metric == metric) & (images == kind)])
    for panel, kind in zip(panels[0], kinds):
        panel.set_title(f"{kind} images")
    for panel in panels[-1]:
        panel.set_xlabel("t of the view")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    save_figure(figure, path)


def plot_curves(panel: Any, views: pd.DataFrame) -> None:
    """A curve for each classifier: colours tell recipes apart, and lines tell models apart if there are several."""
    models, recipes = list(views.model.unique()), sorted(views.recipe.unique(), key=place_of_recipe)
    for i, recipe in enumerate(recipes):
        for j, (model, own) in enumerate(views[views.recipe == recipe].groupby("model")):
            name = model if len(recipes) == 1 else f"{model}, {recipe}" if len(models) > 1 else recipe
            colour, line = (j, "-") if len(recipes) == 1 else (i, LINES[models.index(model) % len(LINES)])
            curve = own.groupby("timestep").value.mean()
            panel.plot(curve.index, curve, line, color=f"C{colour}", marker=".", label=name)


def place_of_recipe(recipe: str) -> int:
    """The recipes of train_cifar10 come first, so that each has its colour in all pictures."""
    return (*RECIPES, SMALL, recipe).index(recipe)


if __name__ == "__main__":
    main()
