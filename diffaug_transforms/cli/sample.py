"""`diffaug sample`: images that a score network makes from noise, in a labelled grid.

    seed --noise--> x_T --score/sampling.py--> image      one row per class, one column per seed
                          labels, classifier

With a classifier this is classifier guidance (Dhariwal & Nichol 2021), otherwise classifier-free guidance (Ho &
Salimans 2022).
"""

from __future__ import annotations

import argparse
import difflib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from ..arguments import as_optional_integer, counted, listed
from ..figures import save_grid
from ..guidance import DenoiseAugmentedClassifier, NoisyClassifier, classifier_guide, load_guidance_classifier
from ..score import Denoiser, ScoreNetwork, sampling, space_timesteps, to_unit
from ..score.hub import class_names_of
from ..score.timesteps import PAPER_SIZE
from .options import add_shared, find_device, new_command

Classifier = NoisyClassifier | DenoiseAugmentedClassifier

SAME_CLASSES = "network and classifier must have the same classes; if they differ, pass --unconditional"
SCALE_HELP = """guidance scale; default: 1.
With --classifier, the gradient of the classifier's log p(class | x_t) is multiplied by SCALE. 0 means no guidance. 1 is
Bayes' rule for an unconditional network. Without --classifier, prediction = (1 - SCALE) unconditional + SCALE
conditional, which needs a network with a null class. 0 ignores the classes, 1 is the conditional network alone, and
more than 1 is classifier-free guidance."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser = new_command(
        commands,
        "sample",
        "Make images of each class from noise and write them as one labelled picture.",
        "diffaug sample cats_and_dogs.png --classes cat,dog --per-class 8 --scale 2",
        "diffaug sample guided.png --classifier runs/guidance --unconditional --scale 2.5 --method ancestral",
    )
    output, text = Path("diffaug_sample.png"), "the picture to write; default: %(default)s"
    parser.add_argument("output", type=Path, nargs="?", default=output, metavar="OUTPUT", help=text)
    parser.add_argument("--classes", help="names or numbers: cat,dog or 3,5; default: all of them, at most ten")
    text = "images, of the seeds from --seed on; default: %(default)s"
    parser.add_argument("--per-class", type=int, default=4, help=text)
    text = f"side of the images in pixels, for a network of any size; default: the network's, or {PAPER_SIZE}"
    parser.add_argument("--size", type=int, help=text)
    parser.add_argument("--scale", type=float, help=SCALE_HELP)
    parser.add_argument("--classifier", help="a guidance classifier's folder, or OpenAI's .pt file")
    text = "score network of a denoise-augmented classifier; default: the one that its folder names"
    parser.add_argument("--classifier-network", help=text)
    parser.add_argument("--openai-flags", help="OpenAI's flags of a classifier's .pt file, needed if it was renamed")
    parser.add_argument("--unconditional", action="store_true", help="give the labels to the classifier only")
    parser.add_argument("--steps", type=int, default=50, help="evenly spaced over all of T; default: %(default)s")
    parser.add_argument("--method", choices=sampling.METHODS, default="ddim", help="sampler; default: %(default)s")
    parser.add_argument("--eta", type=float, default=0.0, help="DDIM's share of noise, in 0...1; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="images at once; default: %(default)s")
    add_shared(parser, "device", "network", "seed")
    return parser


def run(args: argparse.Namespace) -> int:
    check_arguments(args)
    started = time.perf_counter()
    network = Denoiser(args.network, dtype=torch.float32).ready(find_device(args.device))
    size = choose_size(args.size, network)
    classifier = load_classifier(args, network)
    set_scale(args, network)
    names = class_names(args, network, classifier)
    chosen = choose_classes(args.classes, names)
    seeds = range(args.seed, args.seed + args.per_class)
    images = make_images(args, network, size, classifier, chosen or [None], seeds)
    labels = [names[number] for number in chosen] or ["no class"]
    save_grid(images, [f"seed {seed}" for seed in seeds], labels, args.output)
    seconds = time.perf_counter() - started
    made = f"{counted(len(labels) * len(seeds), 'image')} in {counted(args.steps, 'step')}"
    print(f"{made}, {seconds:.1f} s. Wrote {args.output}")
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """ValueError for what would otherwise fail after the images were made."""
    if PIL.Image.registered_extensions().get(args.output.suffix.lower()) not in PIL.Image.SAVE:
        raise ValueError(f"OUTPUT must be a picture's file name, such as out.png. Got {args.output}")
    for name in ("per_class", "batch_size", "size"):
        as_optional_integer(f"--{name.replace('_', '-')}", getattr(args, name), 1)
    if args.scale is not None and not math.isfinite(args.scale):
        raise ValueError(f"--scale must be finite. Got {args.scale}")
    if args.method != "ddim" and args.eta:
        raise ValueError(f"--eta goes with --method ddim. Got {args.eta}")
    for name in ("openai_flags", "classifier_network"):
        if args.classifier is None and getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} goes with --classifier. Got {getattr(args, name)}")


def choose_size(size: int | None, network: ScoreNetwork) -> int:
    """The side of the images. ValueError unless it is the network's own, and one that its strides divide."""
    own = network.image_size or size or PAPER_SIZE
    if size not in (None, own):
        raise ValueError(f"--size goes with a network of any size, here it must be {own}. Got {size}")
    if own % network.stride:
        raise ValueError(f"--size must be a multiple of {network.stride} for this network. Got {own}")
    return own


def load_classifier(args: argparse.Namespace, network: ScoreNetwork) -> Classifier | None:
    """The classifier on the network's device. ValueError if it cannot guide this network."""
    if args.classifier is None:
        return None
    classifier = load_guidance_classifier(args.classifier, args.openai_flags, network=args.classifier_network)
    # The sampler gives its timesteps to the classifier's own network too, so both need the same schedule.
    if isinstance(classifier, DenoiseAugmentedClassifier) and classifier.network.schedule != network.schedule:
        raise ValueError(f"--network must have the classifier's network's {classifier.network.schedule}")
    number = classifier.encoder.config["num_classes"]
    if network.num_classes not in (None, number) and not args.unconditional:
        raise ValueError(f"{SAME_CLASSES}. Got {network.num_classes} and {number} classes")
    return classifier.requires_grad_(False).to(network.device)


def set_scale(args: argparse.Namespace, network: ScoreNetwork) -> None:
    """Set the network's guidance scale if no classifier guides it. ValueError if the network cannot have one."""
    if args.classifier is not None or args.scale is None:
        return
    if args.unconditional or network.num_classes is None:
        raise ValueError(f"--scale needs --classifier, or labels given to the network. Got {args.scale}")
    if network.null_class is None and args.scale != 1:
        raise ValueError(f"--scale other than 1 needs --classifier, or a network with a null class. Got {args.scale}")
    network.guidance_scale = args.scale


def class_names(args: argparse.Namespace, network: ScoreNetwork, classifier: Classifier | None) -> list[str]:
    """A name or number for each class that can be asked for. ValueError if network and classifier know other names."""
    known = [] if args.unconditional else list(class_names_of(args.network))
    number = None if args.unconditional else network.num_classes
    if classifier is not None:
        if known and classifier.classes not in (None, known):
            raise ValueError(f"{SAME_CLASSES}. Got {listed(known)}, and {listed(classifier.classes or [])}")
        known, number = known or classifier.classes or [], classifier.encoder.config["num_classes"]
    return known or [str(k) for k in range(number or 0)]


def choose_classes(text: str | None, names: Sequence[str]) -> list[int]:
    """The numbers of the classes in ``text``, such as ``"cat,dog"`` or ``"3,5"``. None means the first ten."""
    if text is None:
        return list(range(min(len(names), 10)))
    if not names:
        raise ValueError(f"--classes needs --classifier, or labels given to the network. Got {text!r}")
    numbers = {str(k): k for k in range(len(names))} | {name.lower(): k for k, name in enumerate(names)}
    wanted = [part.strip().lower() for part in text.split(",")]
    for part in wanted:
        if part not in numbers:
            nearest = [] if part.isdigit() else difflib.get_close_matches(part, numbers, n=3, cutoff=0.4)
            hint = f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
            limits = f"names or numbers in 0...{len(names) - 1}: {listed(names)}"
            raise ValueError(f"classes must be {limits}. Got {part!r}.{hint}")
    return [numbers[part] for part in wanted]


def make_images(
    args: argparse.Namespace,
    network: ScoreNetwork,
    size: int,
    classifier: Classifier | None,
    classes: Sequence[int | None],
    seeds: Sequence[int],
) -> list[Tensor]:
    """One tensor of images in [0, 1] per class, (seeds, C, H, W). An image depends only on its class and its seed."""
    taken = network.schedule.timesteps
    steps = [taken[0] + step for step in space_timesteps(len(taken), args.steps)]
    pairs = [(number, seed) for number in classes for seed in seeds]
    parts = []
    for first in range(0, len(pairs), args.batch_size):
        numbers, batch_seeds = zip(*pairs[first : first + args.batch_size])
        noise = draw_noise(batch_seeds, network, size)
        x_t = network.schedule.noise_scale[steps[-1]] * next(noise)
        guide = None
        if classifier is not None:
            scale = 1.0 if args.scale is None else args.scale
            guide = classifier_guide(classifier, numbers, scale, schedule=network.schedule)
        unlabelled = args.unconditional or network.num_classes is None
        labels = None if unlabelled else torch.tensor(numbers, device=network.device)
        options: Any = {"method": args.method, "eta": args.eta, "labels": labels, "guide": guide, "noise": noise}
        parts.append(to_unit(sampling.sample(network, x_t, steps, progress=True, **options)).clamp(0, 1).cpu())
    return list(torch.cat(parts).split(len(seeds)))


def draw_noise(seeds: Sequence[int], network: ScoreNetwork, size: int) -> Iterator[Tensor]:
    """Batches of standard normal noise on the network's device, without end. Each image has its own generator."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shape = (network.in_channels, size, size)
    while True:
        yield torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(network.device)
