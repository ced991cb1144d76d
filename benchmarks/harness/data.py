"""The test sets that the benchmarks read, by name, and images of the networks' benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Subset, default_collate

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.robustness import IMAGENET_SETS
from diffaug_transforms.robustness.corrupted import Corrupted
from diffaug_transforms.robustness.datasets import load_cifar10_c, load_imagenet_set
from diffaug_transforms.robustness.evaluation.data import class_folders
from diffaug_transforms.robustness.evaluation.sets import CROP, HubImages, Images, center_crop, holds_corruptions

from .options import default_device

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

SETS = ("cifar10", "cifar10-c", "tiny-imagenet", "tiny-imagenet-c", *IMAGENET_SETS)


def side_of(network: ScoreNetwork) -> int:
    """The side of the images that a network is measured on: its own, or 224 pixels for a network of any size."""
    return network.image_size or CROP


def read_images(data: Images, places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) in [0, 1] and targets, at these places in ``data``, on the GPU if there is one."""
    images, targets = default_collate([data[place] for place in places])
    return images.to(default_device()).float() / 255, targets.to(default_device())


def open_set(
    name: str, data: str, corruption: str = "clean", severity: int = 0, *, resize: int | None = None
) -> Images:
    """A test set from its published files; or, if ``data`` is the clean set, corrupted on the fly.

    Args:
        name: one of ``SETS``.
        data: folder of the published files. For the sets of CIFAR-10 and Tiny ImageNet, ``imagenet`` and ``imagenet-c``
            also the clean test set: a Hub id, or a folder in the Hub's layout.
        corruption: "clean", or one of ``CORRUPTIONS``.
        severity: 1...5, for a corruption.
        resize: give ImageNet's images as squares of this side, from a shorter side of this length. Corruptions are
            made at 224 pixels all the same. None: 224, ImageNet-C's images as published and the others from 256.

    Raises:
        ValueError: ``resize`` for CIFAR-10 or Tiny ImageNet, or below 224.
    """
    if resize is not None and (name not in IMAGENET_SETS or resize < CROP):
        raise ValueError(f"resize must be at least {CROP}, and is for ImageNet's sets only. Got {resize} for {name}")
    square = None if resize is None else center_crop(resize)
    folder = Path(data)
    if holds_corruptions(folder):
        if name == "cifar10-c":
            return load_cifar10_c(folder, corruption, severity)
        if name == "tiny-imagenet-c":
            return class_folders(folder / corruption / str(severity), (), None)
        return load_imagenet_set(name, folder, corruption=corruption, severity=severity, transform=square)
    usual = center_crop(CROP, 256)
    transform = square if square and corruption == "clean" else usual
    clean_name = name.removesuffix("-c")
    is_wnid_folder = folder.is_dir() and any(folder.glob("n????????"))
    if name in IMAGENET_SETS and (is_wnid_folder or name not in ("imagenet", "imagenet-c")):
        clean: Images = load_imagenet_set(clean_name, folder, transform=transform)
    else:
        clean = HubImages(data, transform=transform if clean_name == "imagenet" else None)
        if -1 in clean.targets:
            raise ValueError(f"{data} must have a column label with classes. Got {', '.join(clean.rows.features)}")
    if corruption == "clean":
        return clean
    return Corrupted(clean, corruption, severity, corruption_set=name, transform=square)


def every_nth(images: Images, n: int) -> Images:
    """Every nth image, from the first on: those that a network was not trained on."""
    return images if n == 1 else Subset(images, range(0, len(images), n))  # type: ignore[arg-type]


def check_classes(data: Any, classifiers: Mapping[str, Any]) -> None:
    """ValueError if a classifier, by its name, numbers a class of the data otherwise than the data do."""
    while not isinstance(data, HubImages) and hasattr(data, "dataset"):
        data = data.dataset
    numbers = {name: number for number, name in enumerate(getattr(data, "classes", ()))}
    for spec, classifier in classifiers.items():
        for number, name in enumerate(getattr(classifier, "classes", ())):
            if numbers.get(name, number) != number:
                raise ValueError(
                    f"{spec} must number the classes as the data do, {name} as {numbers[name]}. Got {number}"
                )
