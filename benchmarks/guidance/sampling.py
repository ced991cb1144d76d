"""Kinds of samples: by which classifier, derivative and scale they are guided; and the samples, kept as files."""

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
from torch import Tensor
from tqdm.auto import tqdm

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.guidance import (
    DenoiseAugmentedClassifier,
    NoisyClassifier,
    classifier_guide,
    load_guidance_classifier,
)
from diffaug_transforms.robustness.evaluation.batches import draw_noise
from diffaug_transforms.robustness.evaluation.digests import digest_of_network
from diffaug_transforms.robustness.evaluation.records import kept
from diffaug_transforms.score import space_timesteps, to_unit
from diffaug_transforms.score.sampling import sample

from ..harness.data import side_of

Classifier = NoisyClassifier | DenoiseAugmentedClassifier


@dataclass(frozen=True)
class OpenedClassifier:
    """A guidance classifier by the derivative that is its gradient: "total", and "partial" if it has both.

    ``fields`` name it in a record, ``digest`` its weights.
    """

    by_derivative: dict[str, Classifier]
    fields: dict[str, Any]
    digest: str


@dataclass(frozen=True)
class SamplingConfig:
    """One kind of samples.

    Args:
        fields: of its records: recipe, seed, mode (the derivative, or "") and scale.
        name: of its folder of samples.
        classifier: the guiding classifier, or None.
        cfg_scale: of classifier-free guidance, in which the network gets the labels itself; None: it does not.
    """

    fields: dict[str, Any]
    name: str
    classifier: Classifier | None = field(default=None, repr=False)
    cfg_scale: float | None = None


def open_guidance(spec: str, network: str, device: torch.device) -> OpenedClassifier:
    """A guidance classifier by its folder or OpenAI file; ``network`` is for folders that name no score network."""
    path = Path(spec)
    config = path / "guidance_classifier.json"
    metadata: dict[str, Any] = json.loads(config.read_text()) if config.is_file() else {}
    unnamed = "network" in metadata and metadata["network"] is None
    total = load_guidance_classifier(path, network=network if unnamed else None).requires_grad_(False).to(device)
    forms: dict[str, Classifier] = {"total": total}
    if isinstance(total, DenoiseAugmentedClassifier):
        forms = {derivative: with_derivative(total, derivative) for derivative in ("total", "partial")}
    fields = {
        "recipe": "denoise-augmented" if len(forms) == 2 else "noisy",
        "seed": metadata.get("arguments", {}).get("seed", 0),
        "parameters": sum(p.numel() for p in total.parameters()),
    }
    known = {"images_seen": metadata.get("images"), "seconds": metadata.get("seconds")}
    fields |= {name: value for name, value in known.items() if value is not None}
    weights = b"".join(p.detach().cpu().numpy().tobytes() for p in total.parameters())
    return OpenedClassifier(forms, fields, hashlib.sha256(weights).hexdigest()[:12])


def learning_curve(spec: str) -> Iterator[dict[str, Any]]:
    """Test accuracies of a classifier's training, from its folder's JSON file, and before them those of its ``init``.

    Each has the recipe, the seed and the images seen so far, those of ``init`` included. None for what was trained
    without ``--test-every``.
    """
    path = Path(spec) / "guidance_classifier.json"
    if not path.is_file():
        return
    metadata: dict[str, Any] = json.loads(path.read_text())
    arguments = metadata.get("arguments", {})
    start = Path(arguments.get("init") or "") / "guidance_classifier.json"
    before = 0
    if arguments.get("init") and start.is_file():
        yield from ({**point, "recipe": "their start"} for point in learning_curve(str(start.parent)))
        before = json.loads(start.read_text())["images"]
    recipe, seed = arguments.get("form", "noisy"), arguments.get("seed", 0)
    for point in metadata.get("curve", ()):
        images_seen = before + metadata["images"] * point["step"] // arguments["steps"]
        yield {"recipe": recipe, "seed": seed, "images_seen": images_seen, "value": round(point["test_accuracy"], 3)}


def with_derivative(classifier: DenoiseAugmentedClassifier, derivative: str) -> DenoiseAugmentedClassifier:
    """The same classifier with the total or the partial derivative as its gradient."""
    through = derivative == "total"
    if classifier.through_network == through:
        return classifier
    encoder, network, classes = classifier.encoder, classifier.network, classifier.classes
    return DenoiseAugmentedClassifier(encoder, network, classes=classes, through_network=through).eval()


def make_configs(
    opened: Sequence[OpenedClassifier], network: ScoreNetwork, args: argparse.Namespace
) -> Iterator[SamplingConfig]:
    """No guidance if 0 is among the scales; each classifier, derivative and other scale; classifier-free."""
    if 0 in args.scales:
        yield SamplingConfig({"recipe": "unguided", "seed": 0, "mode": "", "scale": 0.0}, "unguided")
    for one in opened:
        for derivative, classifier in one.by_derivative.items():
            for scale in (s for s in (args.scales if derivative == "total" else args.partial_scales) if s):
                name = f"{one.fields['recipe']}-{one.digest}-{derivative}-{scale:g}"
                yield SamplingConfig({**one.fields, "mode": derivative, "scale": scale}, name, classifier)
    for scale in args.cfg_scales if network.null_class is not None else ():
        fields = {"recipe": "classifier-free", "seed": 0, "mode": "", "scale": scale}
        yield SamplingConfig(fields, f"classifier-free-{scale:g}", cfg_scale=scale)


def all_samples(
    configs: Sequence[SamplingConfig],
    network: ScoreNetwork,
    classes: int,
    args: argparse.Namespace,
    share: slice = slice(None),
) -> dict[str, tuple[Tensor, float]]:
    """Samples uint8 (N, C, H, W) and their seconds by the config's name, for the batches in ``share``.

    Sample i is of class i % classes. Batch by batch, so that a stopped run has all kinds of some samples.
    """
    parts: dict[str, list[tuple[Tensor, float]]] = {config.name: [] for config in configs}
    batches = [places.tolist() for places in torch.arange(args.samples).split(args.batch_size)]
    settings = {"network": digest_of_network(network), "method": args.method, "steps": args.steps, "seed": args.seed}
    for places, config in tqdm(list(product(batches[share], configs)), unit="batch"):

        def make(config: SamplingConfig = config, places: Sequence[int] = places) -> tuple[Tensor, float]:
            start = time.perf_counter()
            return draw_samples(config, network, places, classes, args), time.perf_counter() - start

        path = args.work / config.name / f"{places[0]:05d}-{places[-1]:05d}.pt"
        parts[config.name].append(kept(path, settings, make))
    return {name: (torch.cat([x for x, _ in own]), sum(seconds for _, seconds in own)) for name, own in parts.items()}


@torch.inference_mode()
def draw_samples(
    config: SamplingConfig, network: ScoreNetwork, places: Sequence[int], classes: int, args: argparse.Namespace
) -> Tensor:
    """Samples uint8 (B, C, H, W), with the noise of their places, whatever the config."""
    steps = space_timesteps(network.num_timesteps, args.steps, "leading" if args.method == "ddim" else "linspace")
    size = (network.in_channels, side_of(network), side_of(network))
    # DDIM takes no noise but the first, which is the same however many are drawn.
    x_t, *noise = draw_noise(places, 1 if args.method == "ddim" else len(steps), size, args.seed).to(network.device)
    labels = torch.tensor(places) % classes
    given, guide = None, None
    if config.cfg_scale is not None:
        network, given = copy.copy(network), labels.to(network.device)
        network.guidance_scale = config.cfg_scale
    if config.classifier is not None:
        guide = classifier_guide(config.classifier, labels, config.fields["scale"], schedule=network.schedule)
    x_t = x_t * network.schedule.noise_scale[steps[-1]]
    x_0 = sample(network, x_t, steps, method=args.method, labels=given, guide=guide, noise=noise)
    return (to_unit(x_0).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
