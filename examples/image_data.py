"""Labelled images for the training scripts: image folders, Hub datasets, prepared views, resumable batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, takewhile, zip_longest
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from datasets import ClassLabel, load_dataset
from datasets import Image as ImageFeature
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F


@dataclass(frozen=True)
class LabelledImages(Dataset):
    """A dataset of (PIL image, label), with all labels, the class names, and the path of each image in its folder.

    Attributes:
        images: the dataset itself.
        labels: one per image.
        classes: their names.
        paths: relative to the folder of the images. None for a Hub dataset.
    """

    images: Any
    labels: list[int]
    classes: list[str]
    paths: list[Path] | None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[PIL.Image.Image, int]:
        image, label = self.images[index]
        return image.convert("RGB"), label

    def subset(self, number: int) -> LabelledImages:
        """``number`` random images, always the same. Files are sorted by class, so the first ones would not do."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        indices = sorted(order[:number].tolist())
        paths = None if self.paths is None else [self.paths[i] for i in indices]
        return LabelledImages(Subset(self.images, indices), [self.labels[i] for i in indices], self.classes, paths)

    def join(self, other: LabelledImages) -> LabelledImages:
        """The images of both. ValueError if their classes differ."""
        if other.classes != self.classes:
            raise ValueError(f"extra data must have the classes {self.classes}. Got {other.classes}")
        paths = None if self.paths is None or other.paths is None else self.paths + other.paths
        images: Any = ConcatDataset([self.images, other.images])
        return LabelledImages(images, self.labels + other.labels, self.classes, paths)


class HubImages(Dataset):
    """(PIL image, label) from the rows of a Hub dataset."""

    def __init__(self, rows: Any, column: str, labels: Sequence[int]) -> None:
        self.rows, self.column, self.labels = rows, column, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[PIL.Image.Image, int]:
        return self.rows[index][self.column], self.labels[index]


def load_images(data: str, split: str) -> LabelledImages | None:
    """One split of a dataset. None if there is no such split.

    Args:
        data: an image folder (``data/split/class/image``, or ``data/class/image`` for "train"), the id of a Hub
            dataset, or a folder in the Hub's layout.
        split: such as "train" or "test".
    """
    root = Path(data)
    if root.is_dir() and not any(any(root.glob(pattern)) for pattern in ("*.parquet", "*/*.parquet", "*/*.arrow")):
        has_splits = (root / "train").is_dir()
        folder = root / split if has_splits else root
        if not folder.is_dir() or (split != "train" and not has_splits):
            return None
        files = ImageFolder(str(folder))
        paths = [Path(path).relative_to(folder) for path, _ in files.samples]
        return LabelledImages(files, files.targets, files.classes, paths)
    try:
        rows = load_dataset(data, split=split)
    except ValueError as error:
        if "nknown split" in str(error):
            return None
        raise
    column = next(name for name, feature in rows.features.items() if isinstance(feature, ImageFeature))
    label = next(name for name in ("label", "labels", "fine_label") if name in rows.features)
    feature, labels = rows.features[label], rows[label][:]
    classes = feature.names if isinstance(feature, ClassLabel) else [str(k) for k in range(max(labels) + 1)]
    return LabelledImages(HubImages(rows, column, labels), labels, classes, None)


def load_test_images(data: str, limit: int | None) -> LabelledImages | None:
    """The test images, or the validation images if there are none. None if there are neither.

    Args:
        data: as for ``load_images``.
        limit: use only so many images, at random but always the same.
    """
    test = load_images(data, "test") or load_images(data, "validation") or load_images(data, "val")
    return test.subset(limit) if test is not None and limit else test


def load_training_images(
    sources: Sequence[str], prepared: Sequence[Path], limit: int | None
) -> tuple[LabelledImages, list[list[Path]] | None]:
    """The training images of all sources, and the prepared copies of each image if there are any.

    Args:
        sources: each as ``data`` of ``load_images``.
        prepared: for each source the folder that `diffaug augment` made from it, or nothing at all.
        limit: use only so many images of each source, at random but always the same.
    """
    if prepared and len(prepared) != len(sources):
        raise ValueError(f"there must be one prepared folder for each source of images. Got {len(prepared)} folders")
    joined: LabelledImages | None = None
    copies: list[list[Path]] = []
    for source, folder in zip_longest(sources, prepared):
        images = load_images(source, "train")
        if images is None:
            raise ValueError(f"data must hold training images. Got {source}")
        images = images.subset(limit) if limit else images
        copies += prepared_copies(images, folder) if folder is not None else []
        joined = images if joined is None else joined.join(images)
    if joined is None:
        raise ValueError("sources must hold at least one. Got none")
    return joined, copies or None


def prepared_copies(images: LabelledImages, folder: Path) -> list[list[Path]]:
    """The copies of each image that ``diffaug augment`` wrote to the same tree. OSError if an image has none."""
    if images.paths is None:
        raise ValueError("prepared views need an image folder as data, with the same tree")
    copies = []
    for path in images.paths:
        numbered = (folder / path.parent / f"{path.stem}_{copy}{path.suffix}" for copy in count())
        found = [folder / path] if (folder / path).exists() else list(takewhile(Path.exists, numbered))
        if not found:
            raise OSError(f"{folder} has no copy of {path}: was `diffaug augment` run on the same folder to its end?")
        copies.append(found)
    return copies


class ViewsDataset(Dataset):
    """The per-sample views of images. A key is (epoch, index).

    The draws of a sample depend only on the seed and its key, so a resumed run sees what an unbroken run would see, for
    any number of workers.

    Args:
        images: the images and their labels.
        views: makes the views of one image, by name.
        seed: of the run.
        copies: prepared DiffAug views of each image; each epoch takes the next one. None: there are none.
        prepare_copy: crops a prepared view. None: the view stays as it is.
    """

    def __init__(
        self,
        images: LabelledImages,
        views: Callable[[Any], dict[str, Tensor]],
        seed: int,
        copies: Sequence[Sequence[Path]] | None = None,
        prepare_copy: Callable[[Any], Any] | None = None,
    ) -> None:
        self.images, self.views, self.seed = images, views, seed
        self.copies, self.prepare_copy = copies, prepare_copy

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[dict[str, Tensor], int]:
        epoch, index = key
        image, label = self.images[index]
        # torch.manual_seed would also queue a seed for CUDA with its stack trace, which takes 0.4 ms per sample.
        torch.default_generator.manual_seed(hash((self.seed, epoch, index)) % 2**63)
        views = self.views(image)
        if self.copies is not None:
            copies = self.copies[index]
            with PIL.Image.open(copies[epoch % len(copies)]) as copy:
                view = copy.convert("RGB")
            views["diffaug"] = F.to_image(self.prepare_copy(view) if self.prepare_copy is not None else view)
        return views, label


class Batches:
    """The keys of each step's batch, for one process out of several. Epochs are shuffled. Any step can be the first.

    The global batch of a step is cut into equal parts: process r takes part r.
    """

    def __init__(
        self, length: int, batch_size: int, steps: int, seed: int, rank: int = 0, world: int = 1, start: int = 0
    ) -> None:
        self.length, self.batch_size, self.steps, self.seed = length, batch_size, steps, seed
        self.rank, self.world, self.start = rank, world, start

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        orders: dict[int, Tensor] = {}
        for step in range(self.start, self.steps):
            first = (step * self.world + self.rank) * self.batch_size
            keys = []
            for position in range(first, first + self.batch_size):
                epoch, offset = divmod(position, self.length)
                if epoch not in orders:
                    generator = torch.Generator().manual_seed(hash((self.seed, epoch)) % 2**63)
                    orders = {k: v for k, v in orders.items() if k == epoch - 1}
                    orders[epoch] = torch.randperm(self.length, generator=generator)
                keys.append((epoch, int(orders[epoch][offset])))
            yield keys


def geometry(size: int) -> tuple[v2.Transform, v2.Transform]:
    """The random crop and flip of the clean view, and the central crop for evaluation and as DiffAug's start.

    Up to 64 pixels they are those usual on CIFAR-10: shifts by up to an eighth. Above, they are the paper's:
    RandomResizedCrop and a flip; resize to 8/7 and a central crop (256 and 224).
    """
    if size <= 64:
        whole: v2.Transform = v2.Resize((size, size), antialias=True)
        return v2.Compose([whole, v2.RandomCrop(size, padding=size // 8), v2.RandomHorizontalFlip()]), whole
    crop = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])
    return crop, v2.Compose([v2.Resize(size * 8 // 7, antialias=True), v2.CenterCrop(size)])
