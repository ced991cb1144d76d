"""Perceptually aligned gradients: what a classifier's input gradient looks like, alone and through DiffAug.

    python benchmarks/gradients.py --data FOLDER_OR_HUB_ID --classifier FOLDER FOLDER

Every gradient is of classifier(through(image)) by image (see ``input_gradient``), with one noise for all classifiers:
    alone       nothing between: the gradient at the clean image
    noisy       the image plus the noise of t, so the gradient at a noisy image, not denoised
    partial     by the one-step denoised image itself: the network is taken as a constant
    total       through DiffAug: by the clean image, back through the score network (float32)
The recipe "random gradient" is chance: a Gaussian gradient in the classifier's place, as it is or back through DiffAug.

Metrics, means over images:
    alignment       |<x, g>| / ||g||, g the gradient of the predicted class's logit, x what it is by: the denoised image
                    for "partial", else the clean one, in [0, 1] (Etmann et al. 2019, arXiv 1905.04172, def. 2)
    cosine          the same over ||x||
    centred_cosine  the cosine with x less its mean in each channel: most of ||x|| in [0, 1] is brightness, of which
                    gradients have next to none
    score_cosine    cos of g, the gradient of the true label's log-probability, with the score network's own gradient
                    of log p_t(label | x_t) by x_t, which is its score with the label minus its score without (Ho and
                    Salimans 2022). A generative model's gradients are the yardstick of Srinivas, Bordt and Lakkaraju
                    2023, arXiv 2305.19101, and the training target of Ganz, Kawar and Elad 2023, arXiv 2207.11378.
                    At one t all modes have the same target; "alone", which has no noise, is held against each.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from adapted_images import draw_noise
from gradient_modes import (
    Mode,
    alignments,
    label_gradient,
    of_classifier,
    open_modes,
    pull_back,
    read_images,
    score_cosine,
)
from gradient_pictures import draw_panels, stretch
from records import RESULTS, Record, write_results
from shift_inputs import open_classifiers, open_set
from torch import Tensor, nn
from tqdm.auto import tqdm

from diffaug_transforms import DiffAug

CHANCE = {"model": "none", "recipe": "random gradient", "seed": 0}
Values = dict[tuple[int, str, int, str], list[Tensor]]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="uoft-cs/cifar10", help="Hub id or local folder of CIFAR-10")
    parser.add_argument("--classifier", nargs="+", action="extend", required=True, help="as covariate_shift.py's")
    parser.add_argument("--network", default="cifar10", help="a class-conditional one with a null class")
    parser.add_argument("--timesteps", type=int, nargs="+", default=[16, 44, 96, 200, 350, 500])
    parser.add_argument("--images", type=int, default=100, help="the first test images")
    parser.add_argument("--batch-size", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--pictures", type=int, nargs="*", default=[15, 34], help="test images to draw")
    parser.add_argument("--output", type=Path, default=RESULTS / "gradients.json", help="the picture is beside it")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifiers, named = open_classifiers(args.classifier, device)
    models, fields = list(classifiers.values()), list(named.values())
    augment = DiffAug(args.network, differentiable=True, dtype=torch.float32)
    data = open_set("cifar10", args.data, "clean", 0)
    if args.pictures:
        draw(augment, {f["recipe"]: model for model, f in zip(models, fields) if f["seed"] == 0}, data, args)
    values: Values = defaultdict(list)
    for places in tqdm(torch.arange(min(args.images, len(data))).split(args.batch_size)):
        images, labels = read_images(data, places.tolist())
        drawn = draw_noise(places.tolist(), 1 + len(args.timesteps), images.shape[1:], args.seed)
        random, *noise = drawn.to(images.device)
        collect(values, models, augment, images, labels, random, dict(zip(args.timesteps, noise)))
    write_results(__file__, list(make_records(values, fields, args.network)), args.output)


def collect(
    values: Values,
    classifiers: Sequence[nn.Module],
    augment: DiffAug,
    images: Tensor,
    labels: Tensor,
    random: Tensor,
    noise_at: dict[int, Tensor],
) -> None:
    """Add each image's metrics under (place of the classifier, mode, t, metric); -1 is chance, of ``random``'s."""

    def add(place: int, mode: str, t: int, metrics: dict[str, Tensor]) -> None:
        for metric, value in metrics.items():
            values[place, mode, t, metric].append(value.cpu())

    clean = Mode(images, None, images)
    alone = {place: of_classifier(classifier, clean, labels) for place, classifier in enumerate(classifiers)}
    alone[-1] = random, random
    for place, (of_logit, _) in alone.items():
        add(place, "alone", 0, alignments(images, of_logit))
    for t, noise in noise_at.items():
        modes = open_modes(augment, images, t, noise)
        target = label_gradient(augment.network, images, labels, t, noise)
        for place, (_, of_log_probability) in alone.items():
            add(place, "alone", t, score_cosine(of_log_probability, target))
        for (place, classifier), (name, mode) in product(enumerate(classifiers), modes.items()):
            of_logit, of_log_probability = of_classifier(classifier, mode, labels)
            add(place, name, t, alignments(mode.images, of_logit) | score_cosine(of_log_probability, target))
        chance = pull_back(random, modes["total"])
        add(-1, "total", t, alignments(images, chance) | score_cosine(chance, target))


def make_records(values: Values, fields: Sequence[dict[str, Any]], network: str) -> Iterator[Record]:
    for (place, mode, t, metric), parts in values.items():
        own = torch.cat(parts).double()
        named = CHANCE if place < 0 else fields[place]
        value = {"value": round(own.mean().item(), 5), "n": len(own)}
        error = round(own.std().item() / len(own) ** 0.5, 5)
        common = {"benchmark": "gradients", "dataset": "cifar10", "network": network, **named, "mode": mode}
        yield {**common, "timestep": t, "metric": metric, **value, "standard_error": error}


def draw(augment: DiffAug, classifiers: dict[str, nn.Module], data: Any, args: argparse.Namespace) -> None:
    """The denoised images over t, under them the network's own gradients and each classifier's, of the true label."""
    images, labels = read_images(data, args.pictures)
    (noise,) = draw_noise(args.pictures, 1, images.shape[1:], args.seed).to(images.device)
    columns = {t: open_modes(augment, images, t, noise) for t in args.timesteps}
    own = [label_gradient(augment.network, images, labels, t, noise) for t in args.timesteps]
    rows: dict[str, list[Tensor | None]] = {
        "denoised": [images, *(modes["partial"].seen for modes in columns.values())],
        "score network": [None, *map(stretch, own)],
    }
    for recipe, classifier in classifiers.items():
        for name in ("partial", "total"):
            modes = [Mode(images, None, images), *(column[name] for column in columns.values())]
            gradients = [of_classifier(classifier, mode, labels)[1] for mode in modes]
            rows[f"{recipe}, {name}"] = list(map(stretch, gradients))
    places = range(len(images))
    lines = {name: [x if x is None else x[i] for i in places for x in row] for name, row in rows.items()}
    titles = [f"t = {t}" for t in (0, *args.timesteps)] * len(images)
    draw_panels(lines, titles, args.output.with_suffix(".png"), left=1.6)


if __name__ == "__main__":
    main()
