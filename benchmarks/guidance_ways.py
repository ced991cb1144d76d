"""The ways in which guidance.py samples: by which classifier, derivative and scale; and the samples, kept as files."""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from adapted_images import draw_noise
from torch import Tensor
from tqdm.auto import tqdm

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.guidance import (
    DenoiseAugmentedClassifier,
    NoisyClassifier,
    classifier_guide,
    load_guidance_classifier,
)
from diffaug_transforms.guidance.folder import FACTS, FILES
from diffaug_transforms.score import to_unit
from diffaug_transforms.score.sampling import sample, spaced_timesteps, strided_timesteps

Classifier = NoisyClassifier | DenoiseAugmentedClassifier


@dataclass(frozen=True)
class Opened:
    """A guidance classifier: by the derivative that is its gradient, "total" and "partial" or "total" alone.

    ``fields`` name it in a record, ``digest`` its weights.
    """

    by_derivative: dict[str, Classifier]
    fields: dict[str, Any]
    digest: str


@dataclass(frozen=True)
class Way:
    """One way to sample.

    Args:
        fields: of its records: recipe, seed, mode (the derivative, or "") and scale.
        name: of its folder of samples.
        classifier: that guides, or None.
        label_weight: of a network that is told the labels itself; None: it is not told.
    """

    fields: dict[str, Any]
    name: str
    classifier: Classifier | None = field(default=None, repr=False)
    label_weight: float | None = None


def open_guidance(spec: str, network: str, device: torch.device) -> Opened:
    """A guidance classifier by its folder or OpenAI file; ``network`` is for folders that name no score network."""
    path = Path(spec)
    facts: dict[str, Any] = json.loads((path / FACTS).read_text()) if (path / FACTS).is_file() else {}
    unnamed = "network" in facts and facts["network"] is None
    total = load_guidance_classifier(path, network=network if unnamed else None).requires_grad_(False).to(device)
    forms = {"total": total}
    if isinstance(total, DenoiseAugmentedClassifier):
        forms = {derivative: with_derivative(total, derivative) for derivative in ("total", "partial")}
    fields = {
        "recipe": "denoise-augmented" if len(forms) == 2 else "noisy",
        "seed": facts.get("arguments", {}).get("seed", 0),
        "parameters": sum(p.numel() for p in total.parameters()),
    }
    known = {"images_seen": facts.get("images"), "seconds": facts.get("seconds")}
    fields |= {name: fact for name, fact in known.items() if fact is not None}
    weights = path / FILES[2] if path.is_dir() else path
    return Opened(forms, fields, hashlib.sha256(weights.read_bytes()).hexdigest()[:12])


def with_derivative(classifier: DenoiseAugmentedClassifier, derivative: str) -> DenoiseAugmentedClassifier:
    """The same classifier with the total or the partial derivative as its gradient."""
    through = derivative == "total"
    if classifier.through_network == through:
        return classifier
    # A copy of the network, for either derivative is fast with another memory layout.
    network = copy.deepcopy(classifier.network)
    encoder, classes = classifier.encoder, classifier.classes
    return DenoiseAugmentedClassifier(encoder, network, classes=classes, through_network=through).eval()


def make_ways(opened: Sequence[Opened], network: ScoreNetwork, args: argparse.Namespace) -> Iterator[Way]:
    """No guidance, where 0 is among the scales; each classifier, derivative and other scale; classifier-free."""
    if 0 in args.scales:
        yield Way({"recipe": "unguided", "seed": 0, "mode": "", "scale": 0.0}, "unguided")
    for one in opened:
        for derivative, classifier in one.by_derivative.items():
            for scale in (s for s in (args.scales if derivative == "total" else args.partial_scales) if s):
                name = f"{one.fields['recipe']}-{one.digest}-{derivative}-{scale:g}"
                yield Way({**one.fields, "mode": derivative, "scale": scale}, name, classifier)
    for scale in args.cfg_scales if network.null_class is not None else ():
        fields = {"recipe": "classifier-free", "seed": 0, "mode": "", "scale": scale}
        yield Way(fields, f"classifier-free-{scale:g}", label_weight=scale)


def all_samples(
    ways: Sequence[Way], network: ScoreNetwork, classes: int, args: argparse.Namespace, share: slice = slice(None)
) -> dict[str, tuple[Tensor, float]]:
    """Each way's samples and their seconds, by its name; of the batches in ``share``, which must be one at least.

    Batch by batch, so that a stopped run has all ways of some.
    """
    parts: dict[str, list[tuple[Tensor, float]]] = {way.name: [] for way in ways}
    batches = [places.tolist() for places in torch.arange(args.samples).split(args.batch_size)]
    for places, way in tqdm(list(product(batches[share], ways)), unit="batch"):
        parts[way.name].append(kept_samples(way, network, places, classes, args))
    return {name: (torch.cat([x for x, _ in own]), sum(seconds for _, seconds in own)) for name, own in parts.items()}


def kept_samples(
    way: Way, network: ScoreNetwork, places: Sequence[int], classes: int, args: argparse.Namespace
) -> tuple[Tensor, float]:
    """Samples uint8 (B, C, H, W) and the seconds that they took, from their file under --work if it is there.

    ``places`` are consecutive places among all samples: they seed the noise, and sample i is of class i % classes.
    """
    path = args.work / way.name / f"{places[0]:05d}-{places[-1]:05d}.pt"
    settings = {"network": args.network, "method": args.method, "steps": args.steps, "seed": args.seed}
    kept = torch.load(path, weights_only=True) if path.exists() else {}
    if kept.get("settings") != settings:
        start = time.perf_counter()
        images = draw_samples(way, network, places, classes, args)
        kept = {"settings": settings, "images": images, "seconds": time.perf_counter() - start}
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        torch.save(kept, unfinished)
        unfinished.rename(path)
    return kept["images"], kept["seconds"]


@torch.inference_mode()
def draw_samples(
    way: Way, network: ScoreNetwork, places: Sequence[int], classes: int, args: argparse.Namespace
) -> Tensor:
    """Samples uint8 (B, C, H, W), with the noise of their places, whatever the way."""
    space = strided_timesteps if args.method == "ddim" else spaced_timesteps
    steps = space(network.num_timesteps, args.steps)
    size = (network.in_channels, network.image_size, network.image_size)
    x_t, *noise = draw_noise(places, len(steps), size, args.seed).to(network.device)
    labels = torch.tensor(places) % classes
    told, guide = None, None
    if way.label_weight is not None:
        network, told = copy.copy(network), labels.to(network.device)
        network.label_weight = way.label_weight
    if way.classifier is not None:
        guide = classifier_guide(way.classifier, labels, way.fields["scale"], schedule=network.schedule)
    x_t = x_t * network.schedule.noise_scale[steps[-1]]
    x_0 = sample(network, x_t, steps, method=args.method, labels=told, guide=guide, noise=noise)
    return (to_unit(x_0).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
