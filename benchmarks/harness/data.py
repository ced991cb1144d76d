"""Test sets as torch data sets of (uint8 image (3, H, W), target), and the noise that belongs to each image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from diffaug_transforms.robustness import CORRUPTIONS, IMAGENET_SETS
from diffaug_transforms.robustness.datasets import Corrupted, load_cifar10_c, load_imagenet_set

from .options import default_device

Images = Dataset[tuple[Tensor, Any]]
SETS = ("cifar10", "cifar10-c", *IMAGENET_SETS)
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
#: A split without labels, such as the test split of the Hub's ``imagenet-1k``, gives way to the next one.
TEST_SPLITS = ("test", "validation", "valid")


class HubImages(Images):
    """A split of a Hub data set, or of a folder in the Hub's layout: an image column, and labels if there are any.

    Args:
        data: the Hub id or the folder.
        split: "train", or "test" for the first of ``TEST_SPLITS`` whose labels are known.
        transform: from a PIL image to a PIL image. None: as it is.

    Attributes:
        targets: the labels, -1 if there are none. classes: their names, if they are known.
    """

    def __init__(
        self, data: str, split: str = "test", transform: Callable[[PIL.Image.Image], PIL.Image.Image] | None = None
    ) -> None:
        from datasets import load_dataset

        splits = load_dataset(data)
        found = [splits[name] for name in (TEST_SPLITS if split == "test" else (split,)) if name in splits]
        if not found:
            raise ValueError(f"{data} must have a {split} split. Got {', '.join(splits)}")
        known = [rows for rows in found if "label" in rows.features and min(rows["label"][:]) >= 0]
        self.rows = (known or found)[0]
        self.column = "img" if "img" in self.rows.features else "image"
        self.transform = transform
        self.targets: list[int] = list(self.rows["label"][:]) if known else [-1] * len(self.rows)
        self.classes: list[str] = list(getattr(self.rows.features.get("label"), "names", []))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.rows[int(index)][self.column].convert("RGB")
        return F.pil_to_tensor(image if self.transform is None else self.transform(image)), self.targets[index]


def center_crop(size: int, resize: int | None = None, filter: str = "bilinear") -> v2.Compose:
    """The shorter side to ``resize`` (default: ``size``), then the centre of ``size``."""
    interpolation = v2.InterpolationMode(filter)
    return v2.Compose([v2.Resize(resize or size, interpolation, antialias=True), v2.CenterCrop(size)])


def open_set(name: str, data: str, corruption: str = "clean", severity: int = 0) -> Images:
    """A test set from its published files; or, if ``data`` is the clean set, corrupted on the fly.

    Args:
        name: one of ``SETS``.
        data: folder of the published files. For ``cifar10``, ``cifar10-c``, ``imagenet`` and ``imagenet-c`` also the
            clean test set: a Hub id, or a folder in the Hub's layout.
        corruption: "clean", or one of ``CORRUPTIONS``.
        severity: 1...5, for a corruption.
    """
    folder = Path(data)
    if holds_corruptions(folder):
        if name == "cifar10-c":
            return load_cifar10_c(folder, corruption, severity)
        return load_imagenet_set(name, folder, corruption=corruption, severity=severity)
    clean_name = name.removesuffix("-c")
    is_wnid_folder = folder.is_dir() and any(folder.glob("n????????"))
    if name in IMAGENET_SETS and (is_wnid_folder or name not in ("imagenet", "imagenet-c")):
        clean: Images = load_imagenet_set(clean_name, folder)
    else:
        clean = HubImages(data, transform=center_crop(224, 256) if clean_name == "imagenet" else None)
    return clean if corruption == "clean" else Corrupted(clean, corruption, severity, corruption_set=name)


def holds_corruptions(folder: Path) -> bool:
    """Whether this is the folder of a published CIFAR-10-C or ImageNet-C, which have no clean images."""
    named = (path for c in CORRUPTIONS for path in (folder / c, *folder.glob(f"*/{c}")))
    return (folder / "labels.npy").exists() or any(path.is_dir() for path in named)


def places_in_full(data: Images) -> list[int]:
    """The place of each image in the full set, of which ``data`` may be a Subset. An image's noise depends on it."""
    return list(data.indices) if isinstance(data, Subset) else list(range(len(data)))  # type: ignore[arg-type]


def batches(data: Images, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor, list[int]]]:
    """Images uint8 (B, C, H, W), targets and ``places_in_full``, for every ``world``-th image from ``rank`` on."""
    places = places_in_full(data)[rank::world]
    own = Subset(data, range(rank, len(data), world))  # type: ignore[arg-type]
    for start, (images, targets) in zip(range(0, len(places), batch_size), DataLoader(own, batch_size)):
        yield images, targets, places[start : start + batch_size]


def read_images(data: Images, places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) in [0, 1] and targets, at these places in ``data``, on the GPU if there is one."""
    images, targets = default_collate([data[place] for place in places])
    return images.to(default_device()).float() / 255, targets.to(default_device())


def draw_noise(places: Sequence[int], number: int, size: Sequence[int], seed: int) -> Tensor:
    """(number, B, C, H, W). An image's noise depends on the seed and its place alone, not on its batch or process."""
    generators = [torch.Generator().manual_seed(hash((seed, place)) % 2**63) for place in places]
    return torch.stack([torch.randn(number, *size, generator=generator) for generator in generators], dim=1)
