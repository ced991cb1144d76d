"""Labelled images of the training scripts: image folders, Hub datasets, cached views, batches that can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, takewhile, zip_longest
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from datasets import ClassLabel, load_dataset
from datasets import Image as ImageFeature
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

Read = Callable[[int], PIL.Image.Image]


@dataclass(frozen=True)
class LabelledImages:
    """How to read image i, the labels, the class names, and each image's place under its folder (None for a Hub's)."""

    read: Read
    labels: list[int]
    classes: list[str]
    paths: list[Path] | None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[PIL.Image.Image, int]:
        return self.read(index).convert("RGB"), self.labels[index]

    def subset(self, number: int) -> LabelledImages:
        """That many of the images, at random but always the same: files are sorted by class, rows may alternate."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        kept = sorted(order[:number].tolist())
        paths = None if self.paths is None else [self.paths[i] for i in kept]
        return LabelledImages(partial(read_kept, self.read, kept), [self.labels[i] for i in kept], self.classes, paths)

    def join(self, other: LabelledImages) -> LabelledImages:
        """The images of both. ValueError if their classes differ."""
        if other.classes != self.classes:
            raise ValueError(f"extra data must have the classes {self.classes}. Got {other.classes}")
        paths = None if self.paths is None or other.paths is None else self.paths + other.paths
        read = partial(read_joined, self.read, other.read, len(self))
        return LabelledImages(read, self.labels + other.labels, self.classes, paths)


# Readers are partials of these and not closures: DataLoader workers may have to be sent them.
def read_file(files: list[Path], index: int) -> PIL.Image.Image:
    return PIL.Image.open(files[index])


def read_row(rows: Any, column: str, index: int) -> PIL.Image.Image:
    return rows[index][column]


def read_kept(read: Read, kept: list[int], index: int) -> PIL.Image.Image:
    return read(kept[index])


def read_joined(first: Read, second: Read, size: int, index: int) -> PIL.Image.Image:
    return first(index) if index < size else second(index - size)


def load_images(data: str, split: str) -> LabelledImages | None:
    """A split of an image folder (``data/split/class/image``, or ``data/class/image`` as "train"), of a Hub dataset,
    or of a folder in the Hub's layout. None where there is no such split."""
    root = Path(data)
    if root.is_dir() and not any(any(root.glob(pattern)) for pattern in ("*.parquet", "*/*.parquet", "*/*.arrow")):
        has_splits = (root / "train").is_dir()
        folder = root / split if has_splits else root
        if not folder.is_dir() or (split != "train" and not has_splits):
            return None
        images = ImageFolder(str(folder))
        files = [Path(path) for path, _ in images.samples]
        paths = [path.relative_to(folder) for path in files]
        return LabelledImages(partial(read_file, files), images.targets, images.classes, paths)
    try:
        rows = load_dataset(data, split=split)
    except ValueError as error:
        if "nknown split" in str(error):
            return None
        raise
    image = next(name for name, feature in rows.features.items() if isinstance(feature, ImageFeature))
    label = next(name for name in ("label", "labels", "fine_label") if name in rows.features)
    feature, labels = rows.features[label], rows[label][:]
    classes = feature.names if isinstance(feature, ClassLabel) else [str(k) for k in range(max(labels) + 1)]
    return LabelledImages(partial(read_row, rows, image), labels, classes, None)


def load_test_images(data: str, limit: int | None) -> LabelledImages | None:
    """The test images or, without any, the validation's: all, or ``limit`` evenly spaced. None where there are none."""
    test = load_images(data, "test") or load_images(data, "validation") or load_images(data, "val")
    return test.subset(limit) if test is not None and limit else test


def cached_views(images: LabelledImages, folder: Path) -> list[list[Path]]:
    """The copies that ``diffaug augment`` made of each image, in the same tree. OSError if one has none."""
    if images.paths is None:
        raise ValueError("cached views need an image folder as data, with the same tree")
    copies = []
    for path in images.paths:
        numbered = (folder / path.parent / f"{path.stem}_{copy}{path.suffix}" for copy in count())
        found = [folder / path] if (folder / path).exists() else list(takewhile(Path.exists, numbered))
        if not found:
            raise OSError(f"{folder} has no copy of {path}: was `diffaug augment` run on the same folder to its end?")
        copies.append(found)
    return copies


def read_training_images(
    sources: Sequence[str], prepared: Sequence[Path], limit: int | None
) -> tuple[LabelledImages, list[list[Path]] | None]:
    """The training images of all sources, and the prepared copies of each image where folders of them are given.

    Args:
        sources: as ``load_images``' data; the first ``limit`` of a random order of each.
        prepared: one folder of `diffaug augment` for each source, or none.
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
        copies += cached_views(images, folder) if folder is not None else []
        joined = images if joined is None else joined.join(images)
    if joined is None:
        raise ValueError("sources must hold at least one. Got none")
    return joined, copies or None


class ViewsDataset(Dataset):
    """Per-sample views of images. A key is (epoch, index): the draws of a sample depend on the seed and its key alone,
    so that a resumed run sees what an unbroken one would, with any number of workers."""

    def __init__(
        self,
        images: LabelledImages,
        views: Callable[[Any], dict[str, Tensor]],
        seed: int,
        cached: Sequence[Sequence[Path]] | None = None,
        prepare_cached: Callable[[Any], Any] | None = None,
    ) -> None:
        self.images, self.views, self.seed = images, views, seed
        self.cached, self.prepare_cached = cached, prepare_cached

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[dict[str, Tensor], int]:
        epoch, index = key
        image, label = self.images[index]
        # torch.manual_seed would also queue a seed for CUDA, stack trace included, at .4 ms a sample.
        torch.default_generator.manual_seed(hash((self.seed, epoch, index)) % 2**63)
        views = self.views(image)
        if self.cached is not None:
            copies = self.cached[index]
            with PIL.Image.open(copies[epoch % len(copies)]) as copy:
                view = copy.convert("RGB")
            views["diffaug"] = F.to_image(self.prepare_cached(view) if self.prepare_cached is not None else view)
        return views, label


class Batches:
    """The keys of each step's batch for one process of several: passes over shuffled images, from a step on.

    The global batch of a step is cut evenly: process r takes its r-th part.
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
                epoch, place = divmod(position, self.length)
                if epoch not in orders:
                    generator = torch.Generator().manual_seed(hash((self.seed, epoch)) % 2**63)
                    orders = {k: v for k, v in orders.items() if k == epoch - 1}
                    orders[epoch] = torch.randperm(self.length, generator=generator)
                keys.append((epoch, int(orders[epoch][place])))
            yield keys


def geometry(size: int) -> tuple[v2.Transform, v2.Transform]:
    """The clean view's crop and flip; and the central crop, from which DiffAug starts and which evaluation sees.

    Up to 64 pixels as is usual on CIFAR-10: shifts of up to an eighth. Above, the paper's: RandomResizedCrop and flip;
    resize to 8/7 and a central crop (256 and 224).
    """
    if size <= 64:
        whole: v2.Transform = v2.Resize((size, size), antialias=True)
        return v2.Compose([whole, v2.RandomCrop(size, padding=size // 8), v2.RandomHorizontalFlip()]), whole
    crop = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])
    return crop, v2.Compose([v2.Resize(size * 8 // 7, antialias=True), v2.CenterCrop(size)])
