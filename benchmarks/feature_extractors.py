"""Extractors of the features that generated images are judged by: Inception, or a classifier that was trained here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
from generation_metrics import MISSING, Features
from torch import Tensor, nn
from tqdm.auto import tqdm

from diffaug_transforms.classifiers import load_classifier
from diffaug_transforms.robustness.ood import last_linear

#: Of OpenAI's evaluator (guided-diffusion, evaluations/evaluator.py): sFID's features are the first channels of a map.
SPATIAL_CHANNELS = 7
#: The layer that it takes, "mixed_6/conv" in TensorFlow's graph, as torch-fidelity names it: 17x17.
INCEPTION_LAYER = "Mixed_6d.branch1x1"


@dataclass(frozen=True)
class Extractor:
    """Features of images uint8 (B, 3, H, W) on its device.

    Args:
        name: for the records: numbers of two extractors cannot be compared.
        layer: whose map the spatial features are from.
        extract: from images to features.
        device: where it is.
        classes: names of its classes; none where they are not the images'.
    """

    name: str
    layer: str
    extract: Callable[[Tensor], Features]
    device: torch.device
    classes: tuple[str, ...] = ()


def open_extractor(spec: str, device: torch.device) -> Extractor:
    """An extractor on a device.

    Args:
        spec: ``inception``, FID's own network, whose weights torch-fidelity downloads; ``inception@FILE`` with that
            file, ``weights-inception-2015-12-05-6726825d.pth``; or a folder of ``examples/train_classifier.py``.

    Raises:
        ValueError: another name, a classifier without stages of maps. OSError: no weights. ImportError: no
            torch-fidelity.
    """
    name, _, file = spec.partition("@")
    if name == "inception":
        return inception(file or None, device)
    if not Path(spec).is_dir():
        raise ValueError(f'extractor must be "inception", "inception@FILE" or a classifier\'s folder. Got {spec!r}')
    return of_classifier(Path(spec), device)


def inception(file: str | None, device: torch.device) -> Extractor:
    """FID's own network. Its probabilities are without the last layer's bias, as in OpenAI's evaluator."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise ImportError(MISSING.format("torch-fidelity")) from None
    try:
        model = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], file).to(device)
    except (URLError, FileNotFoundError) as error:
        raise OSError(
            f"Inception's weights cannot be had ({error}): pass inception@FILE with torch-fidelity's file, or the "
            "folder of a classifier instead"
        ) from error
    spatial = watch(model.get_submodule(INCEPTION_LAYER))

    def extract(images: Tensor) -> Features:
        pooled, logits = model(images)
        return Features(pooled, spatial(), logits.softmax(1))

    return Extractor("Inception", INCEPTION_LAYER, extract, device)


def of_classifier(folder: Path, device: torch.device) -> Extractor:
    """A classifier's penultimate features, the first channels of its last stage but one, and its probabilities."""
    classifier = load_classifier(folder).requires_grad_(False).to(device)
    pooled: list[Tensor] = []
    head = classifier.get_submodule(last_linear(classifier))
    head.register_forward_pre_hook(lambda module, inputs: pooled.append(inputs[0]))
    layer = last_stage_but_one(classifier.model, device)
    spatial = watch(classifier.model.get_submodule(layer))
    pooled.clear()

    def extract(images: Tensor) -> Features:
        probabilities = classifier(images.float() / 255).softmax(1)
        return Features(pooled.pop(), spatial(), probabilities)

    facts = json.loads((folder / "classifier.json").read_text())
    return Extractor(f"{facts['name']} ({folder.name})", layer, extract, device, tuple(facts["classes"]))


def watch(layer: nn.Module) -> Callable[[], Tensor]:
    """Gives, after each call of a layer, the first channels of its map, (B, S)."""
    maps: list[Tensor] = []
    layer.register_forward_hook(lambda module, inputs, output: maps.append(output[:, :SPATIAL_CHANNELS].flatten(1)))
    return maps.pop


@torch.inference_mode()
def last_stage_but_one(model: nn.Module, device: torch.device) -> str:
    """The last child whose map is larger than the last map there is, as Inception's 17x17 is than its 8x8."""
    sides: dict[str, int] = {}

    def note(name: str, output: Tensor) -> None:
        if output.ndim == 4 and output.shape[-1] > 1:
            sides[name] = output.shape[-1]

    handles = [
        child.register_forward_hook(lambda module, inputs, output, name=name: note(name, output))
        for name, child in model.named_children()
    ]
    model(torch.zeros(1, 3, 64, 64, device=device))
    for handle in handles:
        handle.remove()
    larger = [name for name, side in sides.items() if side > min(sides.values())]
    if not larger:
        raise ValueError(f"an extractor must have stages of maps, as ResNets have. Got {type(model).__name__}")
    return larger[-1]


@torch.inference_mode()
def features_of(extractor: Extractor, images: Tensor, batch_size: int = 250) -> Features:
    """Features of images uint8 (N, 3, H, W), on the CPU."""
    batches = tqdm(images.split(batch_size), desc=extractor.name, leave=False)
    parts = [extractor.extract(batch.to(extractor.device)) for batch in batches]
    joined = (torch.cat([getattr(part, name) for part in parts]).cpu() for name in Features.__dataclass_fields__)
    return Features(*joined)
