"""Perceptually aligned gradients: what a classifier's input gradient looks like, alone and through DiffAug.

    python -m benchmarks.gradients --data FOLDER_OR_HUB_ID --classifier FOLDER FOLDER

Every gradient is of classifier(denoiser(image)) by image (see ``input_gradient``), with one noise for all classifiers:
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
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from tqdm.auto import tqdm

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.robustness import gradient_alignment, input_gradient
from diffaug_transforms.robustness.evaluation.batches import draw_noise
from diffaug_transforms.robustness.evaluation.sets import HubImages
from diffaug_transforms.score import Denoiser, diffuse, to_signed

from .harness.classifiers import open_classifiers
from .harness.data import read_images
from .harness.options import default_device, positive_int, script_parser
from .harness.pictures import draw_rows, stretch
from .harness.records import RESULTS, Record, summary, write_results

CHANCE = {"model": "none", "recipe": "random gradient", "seed": 0}
#: By (place of the classifier, mode, t, metric); the place -1 is chance.
Values = dict[tuple[int, str, int, str], list[Tensor]]


def parse_arguments() -> argparse.Namespace:
    common: dict[str, Any] = {"data": "uoft-cs/cifar10", "network": "cifar10", "timesteps": [16, 44, 96, 200, 350, 500]}
    common |= {"batch_size": 25, "seed": 0, "pictures": [15, 34], "output": RESULTS / "gradients.json"}
    parser = script_parser(__doc__, classifier=(), **common)
    parser.add_argument("--images", type=positive_int, default=100, help="the first test images")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    classifiers, named = open_classifiers(args.classifier, default_device())
    models, fields = list(classifiers.values()), list(named.values())
    denoiser = Denoiser(args.network, differentiable=True, dtype=torch.float32)
    data = HubImages(args.data)
    if args.pictures:
        draw(denoiser, {f["recipe"]: model for model, f in zip(models, fields) if f["seed"] == 0}, data, args)
    values: Values = defaultdict(list)
    for places in tqdm(torch.arange(min(args.images, len(data))).split(args.batch_size)):
        images, labels = read_images(data, places.tolist())
        drawn = draw_noise(places.tolist(), 1 + len(args.timesteps), images.shape[1:], args.seed)
        random, *noise = drawn.to(images.device)
        collect(values, models, denoiser, images, labels, random, dict(zip(args.timesteps, noise)))
    write_results("gradients", list(make_records(values, fields, args.network)), args.output)


class Mode(NamedTuple):
    """A gradient is of classifier(denoiser(images)) by images; ``seen`` is denoiser(images)."""

    images: Tensor
    denoiser: Callable[[Tensor], Tensor] | None
    seen: Tensor


def open_modes(denoiser: Denoiser, images: Tensor, t: int, noise: Tensor) -> dict[str, Mode]:
    """The modes that depend on t; ``noise`` is like ``images``, (B, C, H, W)."""
    timesteps = torch.full((len(images),), t, device=images.device)
    denoise = partial(denoiser, timesteps=timesteps, noise=noise)
    with torch.no_grad():
        view = denoise(images)
    added = denoiser.network.schedule.sigmas[t].to(images.device) / 2 * noise  # sigmas are on [-1, 1]
    return {
        "noisy": Mode(images, partial(torch.add, added), images + added),
        "partial": Mode(view, None, view),
        "total": Mode(images, denoise, view),
    }


def collect(
    values: Values,
    classifiers: Sequence[nn.Module],
    denoiser: Denoiser,
    images: Tensor,
    labels: Tensor,
    random: Tensor,
    noise_at: dict[int, Tensor],
) -> None:
    """Add each image's metrics to ``values``; chance is that of the gradient ``random``."""

    def add(place: int, mode: str, t: int, metrics: dict[str, Tensor]) -> None:
        for metric, value in metrics.items():
            values[place, mode, t, metric].append(value.cpu())

    network = denoiser.ready(images.device)
    clean = Mode(images, None, images)
    alone = {place: gradients_of(classifier, clean, labels) for place, classifier in enumerate(classifiers)}
    alone[-1] = random, random
    for place, (of_logit, _) in alone.items():
        add(place, "alone", 0, alignments(images, of_logit))
    for t, noise in noise_at.items():
        modes = open_modes(denoiser, images, t, noise)
        target = label_gradient(network, *noisy_images(network, images, t, noise), labels)
        for place, (_, of_log_probability) in alone.items():
            add(place, "alone", t, score_cosine(of_log_probability, target))
        for (place, classifier), (name, mode) in product(enumerate(classifiers), modes.items()):
            of_logit, of_log_probability = gradients_of(classifier, mode, labels)
            add(place, name, t, alignments(mode.images, of_logit) | score_cosine(of_log_probability, target))
        chance = vjp(random, modes["total"])
        add(-1, "total", t, alignments(images, chance) | score_cosine(chance, target))


def noisy_images(network: ScoreNetwork, images: Tensor, t: int, noise: Tensor) -> tuple[Tensor, Tensor]:
    """x_t (B, C, H, W) and its timesteps (B,), for images (B, C, H, W) in [0, 1]."""
    timesteps = torch.full((len(images),), t, device=images.device)
    return diffuse(to_signed(images), timesteps, noise, network.schedule), timesteps


@torch.no_grad()
def label_gradient(network: ScoreNetwork, x_t: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
    """The network's own gradient of log p_t(label | x_t) by x_t: its score with the label minus the one without."""
    return network.score(x_t, timesteps, labels) - network.score(x_t, timesteps)


def gradients_of(classifier: nn.Module, mode: Mode, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the predicted class's logit, and of the true label's log-probability."""
    with torch.no_grad():
        predicted = classifier(mode.seen).argmax(dim=1)
    of_logit = input_gradient(classifier, mode.images, predicted, denoiser=mode.denoiser, output="logit")
    return of_logit, input_gradient(classifier, mode.images, labels, denoiser=mode.denoiser)


def vjp(gradients: Tensor, mode: Mode) -> Tensor:
    """The gradients by the images that follow from these gradients by what a classifier sees."""

    def linear(seen: Tensor) -> Tensor:
        return (seen * gradients).sum((1, 2, 3))[:, None]

    return input_gradient(linear, mode.images, [0] * len(gradients), denoiser=mode.denoiser, output="logit")


def alignments(images: Tensor, of_logit: Tensor) -> dict[str, Tensor]:
    centred = images - images.mean((2, 3), keepdim=True)
    return {
        "alignment": gradient_alignment(images, of_logit),
        "cosine": gradient_alignment(images, of_logit, cosine=True),
        "centred_cosine": gradient_alignment(centred, of_logit, cosine=True),
    }


def score_cosine(of_log_probability: Tensor, target: Tensor) -> dict[str, Tensor]:
    return {"score_cosine": cosine_similarity(of_log_probability.flatten(1), target.flatten(1))}


def make_records(values: Values, fields: Sequence[dict[str, Any]], network: str) -> Iterator[Record]:
    for (place, mode, t, metric), parts in values.items():
        common = {"benchmark": "gradients", "dataset": "cifar10", "network": network}
        named = CHANCE if place < 0 else fields[place]
        yield {**common, **named, "mode": mode, "timestep": t, "metric": metric, **summary(torch.cat(parts))}


def draw(denoiser: Denoiser, classifiers: dict[str, nn.Module], data: HubImages, args: argparse.Namespace) -> None:
    """The denoised images over t, under them the network's own gradients and each classifier's, for the true label."""
    images, labels = read_images(data, args.pictures)
    (noise,) = draw_noise(args.pictures, 1, images.shape[1:], args.seed).to(images.device)
    network = denoiser.ready(images.device)
    columns = {t: open_modes(denoiser, images, t, noise) for t in args.timesteps}
    own = [label_gradient(network, *noisy_images(network, images, t, noise), labels) for t in args.timesteps]
    rows: dict[str, list[Tensor | None]] = {
        "denoised": [images, *(modes["partial"].seen for modes in columns.values())],
        "score network": [None, *map(stretch, own)],
    }
    for recipe, classifier in classifiers.items():
        for name in ("partial", "total"):
            modes = [Mode(images, None, images), *(column[name] for column in columns.values())]
            rows[f"{recipe}, {name}"] = [stretch(gradients_of(classifier, mode, labels)[1]) for mode in modes]
    places = range(len(images))
    lines = {name: [x if x is None else x[i] for i in places for x in row] for name, row in rows.items()}
    draw_rows(lines, [f"t = {t}" for t in (0, *args.timesteps)] * len(images), args.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
