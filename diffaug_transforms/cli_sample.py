"""`diffaug sample`: images that a score network makes of noise, class by class, in a labelled grid.

    seed ──noise──▶ x_T ──score/sampling.py──▶ image      a row a class, a column a seed
                          labels, classifier

Guidance is classifier guidance (Dhariwal & Nichol 2021) with a classifier, else classifier-free (Ho & Salimans 2022).
"""

from __future__ import annotations

import argparse
import difflib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image
import torch
from torch import Tensor

from .figures import save_grid
from .score import Denoiser, ScoreNetwork, list_score_networks, sampling, space_timesteps, to_unit

if TYPE_CHECKING:
    from .guidance import DenoiseAugmentedClassifier, NoisyClassifier

    Classifier = NoisyClassifier | DenoiseAugmentedClassifier

MOST_ROWS = 10

EXAMPLES = (
    "diffaug sample cats_and_dogs.png --classes cat,dog --per-class 8 --scale 2",
    "diffaug sample guided.png --classifier runs/guidance --unconditional --scale 2.5 --method ancestral --steps 250",
)
SCALE = """guidance scale; default: 1.
With --classifier: factor on the gradient of the classifier's log p(class | x_t); 0: no guidance by it, 1: Bayes' rule
for an unconditional network. Without: prediction = (1 - SCALE) unconditional + SCALE conditional, which needs a network
with a null class; 0: classes ignored, 1: the conditional network alone, above 1: classifier-free guidance."""


def sample(args: argparse.Namespace) -> int:
    """Make images of each class from noise and write them as one labelled picture."""
    check_arguments(args)
    started = time.perf_counter()
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network = Denoiser(args.network, dtype=torch.float32).ready(device)
    classifier = read_classifier(args, network)
    set_scale(args, network)
    names = class_names(args, network, classifier)
    chosen = choose_classes(args.classes, names)
    seeds = range(args.seed, args.seed + args.per_class)
    images = make_images(args, network, classifier, chosen or [None], seeds)
    labels = [names[number] for number in chosen] or ["no class"]
    save_grid(images, [f"seed {seed}" for seed in seeds], labels, args.output)
    seconds = time.perf_counter() - started
    print(f"{len(labels) * len(seeds)} images in {args.steps} steps, {seconds:.1f} s. Wrote {args.output}")
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """ValueError for what would otherwise fail after the images were made."""
    if PIL.Image.registered_extensions().get(args.output.suffix.lower()) not in PIL.Image.SAVE:
        raise ValueError(f"OUTPUT must be a picture's file name, such as out.png. Got {args.output}")
    for name in ("per_class", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1. Got {getattr(args, name)}")
    if args.scale is not None and not math.isfinite(args.scale):
        raise ValueError(f"--scale must be finite. Got {args.scale}")
    if args.method != "ddim" and args.eta:
        raise ValueError(f"--eta goes with --method ddim. Got {args.eta}")
    for name in ("openai_flags", "classifier_network"):
        if args.classifier is None and getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} goes with --classifier. Got {getattr(args, name)}")


def read_classifier(args: argparse.Namespace, network: ScoreNetwork) -> Classifier | None:
    """The classifier on the network's device. ValueError where it cannot guide this network."""
    if args.classifier is None:
        return None
    from .guidance import DenoiseAugmentedClassifier, load_guidance_classifier

    classifier = load_guidance_classifier(args.classifier, args.openai_flags, network=args.classifier_network)
    # The timesteps that the sampler gives to the classifier are its own network's only on the same schedule.
    if isinstance(classifier, DenoiseAugmentedClassifier) and classifier.network.schedule != network.schedule:
        raise ValueError(f"--network must have the classifier's network's {classifier.network.schedule}")
    number = classifier.encoder.config["num_classes"]
    if network.num_classes not in (None, number) and not args.unconditional:
        raise ValueError(
            f"network and classifier must have the same classes, or --unconditional be given. Got {network.num_classes}"
            f" and {number} classes"
        )
    return classifier.requires_grad_(False).to(network.device)


def set_scale(args: argparse.Namespace, network: ScoreNetwork) -> None:
    """Give a network without classifier its label_weight. ValueError where it can have none."""
    if args.classifier is not None or args.scale is None:
        return
    if args.unconditional or network.num_classes is None:
        raise ValueError(f"--scale needs --classifier, or labels given to the network. Got {args.scale}")
    if network.null_class is None and args.scale != 1:
        raise ValueError(f"--scale other than 1 needs --classifier, or a network with a null class. Got {args.scale}")
    network.guidance_scale = args.scale


def class_names(args: argparse.Namespace, network: ScoreNetwork, classifier: Classifier | None) -> list[str]:
    """A name for each class that can be asked for, numbers where no names are known, none where there are no classes.

    ValueError where network and classifier both know names and the names differ.
    """
    card = list_score_networks().get(args.network)
    known = list(card.class_names) if card and not args.unconditional else []
    number = None if args.unconditional else network.num_classes
    if classifier is not None:
        if known and classifier.classes not in (None, known):
            raise ValueError(
                "network and classifier must have the same classes, or --unconditional be given. Got "
                f"{', '.join(known)} and {', '.join(classifier.classes or [])}"
            )
        known, number = known or classifier.classes or [], classifier.encoder.config["num_classes"]
    return known or [str(k) for k in range(number or 0)]


def choose_classes(text: str | None, names: Sequence[str]) -> list[int]:
    """The classes in ``text``, ``"cat,dog"`` or ``"3,5"``, among ``names``; None: the first ten.

    ValueError for one that is not there, with the nearest names.
    """
    if text is None:
        return list(range(min(len(names), MOST_ROWS)))
    if not names:
        raise ValueError(f"--classes needs --classifier, or labels given to the network. Got {text!r}")
    numbers = {str(k): k for k in range(len(names))} | {name.lower(): k for k, name in enumerate(names)}
    wanted = [part.strip().lower() for part in text.split(",")]
    for part in wanted:
        if part not in numbers:
            nearest = [] if part.isdigit() else difflib.get_close_matches(part, numbers, n=3, cutoff=0.4)
            hint = f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
            raise ValueError(f"classes must be names or numbers in 0...{len(names) - 1}. Got {part!r}.{hint}")
    return [numbers[part] for part in wanted]


def make_images(
    args: argparse.Namespace,
    network: ScoreNetwork,
    classifier: Classifier | None,
    classes: Sequence[int | None],
    seeds: Sequence[int],
) -> list[Tensor]:
    """For each class images in [0, 1], (seeds, C, H, W), on the CPU. Each depends on its own class and seed alone."""
    steps = space_timesteps(network.num_timesteps, args.steps)
    pairs = [(number, seed) for number in classes for seed in seeds]
    parts = []
    for first in range(0, len(pairs), args.batch_size):
        numbers, own_seeds = zip(*pairs[first : first + args.batch_size])
        noise = seeded_noise(own_seeds, network)
        x_t = network.schedule.noise_scale[steps[-1]] * next(noise)
        guide = None
        if classifier is not None:
            from .guidance import classifier_guide

            scale = 1.0 if args.scale is None else args.scale
            guide = classifier_guide(classifier, numbers, scale, schedule=network.schedule)
        unlabelled = args.unconditional or network.num_classes is None
        labels = None if unlabelled else torch.tensor(numbers, device=network.device)
        options: Any = {"method": args.method, "eta": args.eta, "labels": labels, "guide": guide, "noise": noise}
        parts.append(to_unit(sampling.sample(network, x_t, steps, progress=True, **options)).clamp(0, 1).cpu())
    return list(torch.cat(parts).split(len(seeds)))


def seeded_noise(seeds: Sequence[int], network: ScoreNetwork) -> Iterator[Tensor]:
    """Standard normal batches on the network's device, without end, each image's from a generator of its own."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shape = (network.in_channels, network.image_size, network.image_size)
    while True:
        yield torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(network.device)


def add_sample_options(parser: argparse.ArgumentParser) -> None:
    output = Path("diffaug_sample.png")
    parser.add_argument("output", type=Path, nargs="?", default=output, metavar="OUTPUT", help="default: %(default)s")
    parser.add_argument("--classes", help="names or numbers, cat,dog or 3,5; default: all of them, at most ten")
    parser.add_argument(
        "--per-class", type=int, default=4, help="images, of seeds from --seed on; default: %(default)s"
    )
    parser.add_argument("--scale", type=float, help=SCALE)
    parser.add_argument("--classifier", help="a guidance classifier's folder, or OpenAI's .pt file")
    parser.add_argument("--classifier-network", help="of a denoise-augmented one; default: the one its folder names")
    parser.add_argument("--openai-flags", help="the flags that trained a classifier's .pt file with another name")
    parser.add_argument("--unconditional", action="store_true", help="give the labels to the classifier only")
    parser.add_argument("--steps", type=int, default=50, help="evenly spaced over all of T; default: %(default)s")
    parser.add_argument("--method", choices=sampling.METHODS, default="ddim", help="default: %(default)s")
    parser.add_argument("--eta", type=float, default=0.0, help="DDIM's share of noise, in 0...1; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="images at once; default: %(default)s")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
