"""DATA -> a test set whose labels are the classifier's classes, clean or corrupted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from torchvision.transforms import v2

from ...arguments import check_choice, listed
from ..corrupted import Corrupted
from ..corruptions import CORRUPTIONS
from ..datasets import (
    IMAGENET_SETS,
    LabelledFiles,
    candidate_classes,
    check_dataset,
    folder_targets,
    load_cifar10_c,
    load_imagenet_set,
)
from .classifiers import OpenedClassifier
from .sets import CROP, TEST_SPLITS, HubImages, Images, OneSize, Prepared, center_crop, holds_corruptions

#: The set whose constants corrupt images up to this side. Larger images get ImageNet-C's.
CONSTANTS_UP_TO = {48: "cifar10-c", 112: "tiny-imagenet-c"}
DATASETS = ("cifar10-c", *IMAGENET_SETS)
KINDS = (
    "a folder with a folder of images for each class, a Parquet file, a folder in the Hub's layout, a Hub data set "
    "(owner/name), or the folder of a published shifted set"
)
WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class TestSet:
    """Labelled images, and how to get them corrupted.

    Attributes:
        name: of the data set in records.
        clean: None for published sets of corrupted images.
        published: from a corruption and a severity to a published set. None: corruptions are made on the fly.
        corruptions: those that there are.
        candidates: the only classes that an answer is chosen from; None: all.
        num_classes: how many outputs a classifier must have. None: labels were matched by name, or have no names.
    """

    __test__ = False  # it is no test for pytest

    name: str
    clean: Images | None
    published: Callable[[str, int], Images] | None = None
    corruptions: tuple[str, ...] = CORRUPTIONS
    candidates: tuple[int, ...] | None = None
    num_classes: int | None = None

    def part(self, corruption: str, severity: int) -> Images:
        """The images under a corruption, or those of "clean". Constants are those for the images' size."""
        if self.published is not None:
            return self.published(corruption, severity)
        clean: Any = self.clean
        if corruption == "clean":
            return clean
        side = min(clean[0][0].shape[-2:])
        fitting = [constants for largest, constants in CONSTANTS_UP_TO.items() if side <= largest]
        return Corrupted(clean, corruption, severity, corruption_set=fitting[0] if fitting else "imagenet-c")


def open_data(
    data: str | Path | Dataset[Any],
    classifier: OpenedClassifier,
    *,
    dataset: str | None = None,
    split: str | None = None,
    size: int | None = None,
) -> TestSet:
    """A test set from what a user calls it.

    Args:
        data: a folder with a folder of images for each class, or with splits of such folders; a Parquet file; a folder
            in the Hub's layout; a Hub data set, ``owner/name`` or ``owner/name:configuration``; the folder of a
            published shifted set; or a dataset of (uint8 image (3, H, W), class of the classifier).
        classifier: its classes label the images, and its size is theirs.
        dataset: which published set it is, one of ``DATASETS``. None: told by its layout. ImageNet-D without its three
            folders, and parts of ImageNet-R and -A cannot be told.
        split: of folders with splits and of Hub data sets. None: the first of ``TEST_SPLITS``.
        size: the side of the images. None: the classifier's; if that has none, the images' own, which must be one.

    Raises:
        OSError: there are no such data. ValueError: labels are missing, or classes or sizes do not fit.
    """
    transform = preparation(classifier, size)
    if not isinstance(data, (str, Path)):
        check_dataset(data)
        if dataset is not None or split is not None:
            raise ValueError(f"dataset and split are for data by name. Got {dataset!r} and {split!r}")
        return TestSet("data", Prepared(data, transform) if transform else OneSize(data))
    data, folder = str(data), Path(data)
    if dataset is not None:
        check_choice("dataset", dataset, DATASETS)
    if not data:
        raise OSError(f"DATA must be {KINDS}. Got an empty name")
    kind = dataset or published_set(folder, classifier.classes)
    if kind is not None:
        return open_published(kind, folder, transform)
    if folder.is_dir() and not holds_shards(folder):
        clean: Any = class_folders(find_split(folder, split), classifier.classes, transform)
    elif folder.suffix == ".parquet" or folder.is_dir() or re.fullmatch(r"\w[\w.-]*/[\w.-]+(:\w+)?", data):
        clean = HubImages(data, split or "test", transform)
        if -1 in clean.targets:
            raise ValueError(f"{data} must have a column label with classes. Got {', '.join(clean.rows.features)}")
        if clean.classes:
            numbers = match_classes(clean.classes, classifier.classes, data)
            clean.targets = [numbers[label] for label in clean.targets]
    else:
        raise OSError(f"DATA must be {KINDS}. Got {data!r}, which is none of them")
    number = None if classifier.classes or not clean.classes else len(clean.classes)
    name = folder.resolve().stem if folder.exists() else data
    return TestSet(name, clean if transform else OneSize(clean), num_classes=number)


def preparation(classifier: OpenedClassifier, size: int | None) -> v2.Compose | None:
    """A photo becomes what the classifier sees: resized, and its centre cut out. None: it stays as it is."""
    side = size or classifier.size
    if side is None:
        return None
    shorter = round(side * (classifier.resize or side) / (classifier.size or side)) if classifier.size else side
    return center_crop(side, shorter, classifier.filter)


def published_set(folder: Path, known: Sequence[str]) -> str | None:
    """Which published set lies in a folder, by its layout. Folders that the classifier knows are plain classes."""
    if not folder.is_dir():
        return None
    if (folder / "labels.npy").exists():
        return "cifar10-c"
    if holds_corruptions(folder):
        return "imagenet-c"
    names = {path.name for path in visible_folders(folder)}
    if names & {"background", "texture", "material"} == names and names:
        return "imagenet-d"
    if not names or not all(map(WNID.fullmatch, names)) or names <= set(known):
        return None
    for name in ("imagenet-r", "imagenet-a"):
        if names == set(folder_targets(name)):
            return name
    return "imagenet"


def open_published(kind: str, folder: Path, transform: v2.Compose | None) -> TestSet:
    """A published set of CIFAR-10's or ImageNet's classes."""
    if kind == "cifar10-c":

        def cifar10(corruption: str, severity: int) -> Images:
            images = load_cifar10_c(folder, corruption, severity)
            return Prepared(images, transform) if transform else images

        there = tuple(c for c in CORRUPTIONS if (folder / f"{c}.npy").exists())
        return TestSet(kind, None, cifar10, there, num_classes=10)
    if kind == "imagenet-c":
        side = transform.transforms[-1].size[0] if transform else CROP
        square = None if side == CROP else center_crop(side)

        def imagenet(corruption: str, severity: int) -> Images:
            return load_imagenet_set(kind, folder, corruption=corruption, severity=severity, transform=square)

        there = tuple(c for c in CORRUPTIONS if any(p.is_dir() for p in (folder / c, *folder.glob(f"*/{c}"))))
        return TestSet(kind, None, imagenet, there, num_classes=1000)
    images = load_imagenet_set(kind, folder, transform=transform)
    return TestSet(kind, images, candidates=candidate_classes(kind), num_classes=1000)


def holds_shards(folder: Path) -> bool:
    """Whether a folder is in the Hub's layout."""
    return any(any(folder.glob(pattern)) for pattern in ("*.parquet", "*/*.parquet", "*.arrow", "*/*.arrow"))


def find_split(root: Path, split: str | None) -> Path:
    """The folder whose folders are the classes."""
    names = [path.name for path in visible_folders(root)]
    if split is not None:
        if split not in names:
            raise ValueError(f"split must be a folder of {root}: {', '.join(names) or 'it has none'}. Got {split!r}")
        return root / split
    nested = [name for name in (*TEST_SPLITS, "train") if name in names and visible_folders(root / name)]
    if nested == ["train"]:
        raise ValueError(f"{root} must hold a test split: {', '.join(TEST_SPLITS)}. Got train: pass it as split")
    return root / nested[0] if nested else root


def class_folders(root: Path, known: Sequence[str], transform: v2.Compose | None) -> Images:
    """The images of a folder with a folder for each class."""
    names = [path.name for path in visible_folders(root)]
    if not names:
        raise ValueError(f"{root} must hold a folder of images for each class. Got no folder")
    numbers = match_classes(names, known, str(root))
    images = LabelledFiles(root, dict(zip(names, numbers)), transform)
    if not len(images):
        raise OSError(f"there are no images in the folders of {root}: {', '.join(names[:5])}")
    return images


def visible_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def match_classes(names: Sequence[str], known: Sequence[str], data: str) -> list[int]:
    """The classifier's number of each of the data's classes: by name, or as it is if the classifier knows no names."""
    if not known:
        return list(range(len(names)))
    places = {name: place for place, name in enumerate(known)}
    if unknown := [name for name in names if name not in places]:
        raise ValueError(
            f"{data} must have classes that the classifier knows: {listed(known)}. Got also {listed(unknown)}"
        )
    return [places[name] for name in names]
