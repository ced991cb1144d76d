"""Labelled images for the training scripts: image folders, Hub datasets and Parquet files, with classes by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import PIL.Image
import torch
from datasets import ClassLabel, get_dataset_split_names, load_dataset
from datasets import Image as ImageFeature
from torch.utils.data import ConcatDataset, Dataset, Subset
from torchvision.datasets.folder import IMG_EXTENSIONS

from diffaug_transforms.images import load_image
from diffaug_transforms.pictures import warn_of_unread

#: Splits for testing. One without labels, such as the test split of ``imagenet-1k``, gives way to the next one.
TEST_SPLITS = ("test", "validation", "val", "valid")
LABEL_COLUMNS = ("label", "labels", "fine_label")
Labels = Literal["needed", "optional", "unused"]
#: The label of an image whose class is not known.
UNKNOWN = -1


@dataclass(frozen=True)
class LabelledImages(Dataset):
    """A dataset of (RGB PIL image, label), with all labels, the class names, and the path of each image in its folder.

    Reading an image that is damaged raises OSError with its name.

    Attributes:
        images: the dataset of the PIL images.
        labels: one per image; ``UNKNOWN`` for an image without a class.
        classes: their names. Empty: the images have no labels.
        paths: relative to the folder of the images. None for a Hub dataset.
    """

    images: Any
    labels: list[int]
    classes: list[str]
    paths: list[Path] | None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[PIL.Image.Image, int]:
        return self.images[index], self.labels[index]

    @property
    def is_labelled(self) -> bool:
        """Whether the class of every image is known."""
        return bool(self.classes) and min(self.labels, default=0) > UNKNOWN

    def some(self, number: int) -> list[int]:
        """The places of ``number`` random images, always the same. Files are sorted by class, so not the first."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        return sorted(order[:number].tolist())

    def at(self, places: Sequence[int]) -> LabelledImages:
        """The images at these places."""
        paths = None if self.paths is None else [self.paths[i] for i in places]
        return LabelledImages(Subset(self.images, places), [self.labels[i] for i in places], self.classes, paths)

    def with_classes(self, classes: Sequence[str], name: str) -> LabelledImages:
        """The same images, labelled by their classes' places in ``classes``. ``name`` is what errors call the images.

        A class without images is no fault. ValueError for an image of a class that is not in ``classes``.
        """
        places = {label: place for place, label in enumerate(classes)}
        unknown = sorted({self.classes[k] for k in set(self.labels)} - set(places))
        if unknown:
            raise ValueError(f"{name} must have images of the training classes only. Got also {listed(unknown)}")
        return replace(self, labels=[places[self.classes[k]] for k in self.labels], classes=list(classes))

    def join(self, other: LabelledImages) -> LabelledImages:
        """The images of both. ValueError if the others have classes that these lack, or if only one has labels."""
        if bool(self.classes) != bool(other.classes):
            raise ValueError("all data must have labels, or none. Got both kinds")
        if self.classes:
            other = other.with_classes(self.classes, "extra data")
        paths = None if self.paths is None or other.paths is None else self.paths + other.paths
        images: Any = ConcatDataset([self.images, other.images])
        return LabelledImages(images, self.labels + other.labels, self.classes, paths)


class ImageFiles(Dataset):
    """RGB PIL images from files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> PIL.Image.Image:
        return load_image(self.files[index])


class HubImages(Dataset):
    """RGB PIL images from the rows of a Hub dataset. ``data`` names it in errors."""

    def __init__(self, rows: Any, column: str, data: str) -> None:
        self.rows, self.column, self.data = rows.cast_column(column, ImageFeature(decode=False)), column, data

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> PIL.Image.Image:
        cell = self.rows[index][self.column]
        if cell is None:
            raise OSError(f"row {index} of {self.data} has no image")
        name = f"row {index} of {self.data} ({cell['path'] or 'without a file name'})"
        return load_image(cell["path"] if cell["bytes"] is None else cell["bytes"], name)


def load_images(data: str, split: str, labels: Labels = "needed") -> LabelledImages | None:
    """One split of a dataset. None if there is no such split.

    Args:
        data: an image folder (``data/split/class/image``, or ``data/class/image`` for "train"), the id of a Hub
            dataset, a folder in the Hub's layout, or a Parquet file. Hidden files and folders are left out.
        split: such as "train" or "test".
        labels: "needed", "optional", or "unused" for images without labels whatever there is.

    Raises:
        ValueError: there are no images, or no labels although they are needed. The message lists what is there.
    """
    root = Path(data)
    if root.is_dir() and not holds_shards(root):
        return load_folder(root, split, labels)
    rows = load_rows(data, split)
    if rows is None:
        return None
    column = next((name for name, feature in rows.features.items() if isinstance(feature, ImageFeature)), None)
    if column is None:
        raise ValueError(f"{data} must have a column of images. Got {described(rows)}")
    found, classes = read_labels(rows, data, labels)
    return LabelledImages(HubImages(rows, column, data), found, classes, None)


def holds_shards(root: Path) -> bool:
    """Whether a folder is in the Hub's layout, and no image folder."""
    return any(any(root.glob(pattern)) for pattern in ("*.parquet", "*/*.parquet", "*/*.arrow"))


def load_rows(data: str, split: str) -> Any:
    """The rows of a Hub dataset's split. None if there is no such split."""
    if data.endswith(".parquet"):
        return load_dataset("parquet", data_files=data, split="train") if split == "train" else None
    try:
        return load_dataset(data, split=split)
    except ValueError as error:
        if "nknown split" in str(error):
            return None
        raise


def read_labels(rows: Any, data: str, labels: Labels) -> tuple[list[int], list[str]]:
    """The labels of all rows and the names of the classes. No names: there is no column of labels."""
    named = [name for name in LABEL_COLUMNS if name in rows.features]
    typed = [name for name, feature in rows.features.items() if isinstance(feature, ClassLabel)]
    column = named[0] if named else typed[0] if len(typed) == 1 else None
    if column is None or labels == "unused":
        if labels == "needed":
            columns = f"{', '.join(LABEL_COLUMNS)}, or one of type ClassLabel"
            raise ValueError(f"{data} must have a column {columns}. Got {described(rows)}")
        return [UNKNOWN] * len(rows), []
    values = rows[column][:]
    if not all(value is None or isinstance(value, (int, str)) for value in values):
        raise ValueError(f"{data} must have one class for each image, an integer or a name. Got {described(rows)}")
    values = [UNKNOWN if value is None or (isinstance(value, int) and value < 0) else value for value in values]
    if isinstance(rows.features[column], ClassLabel):
        return values, list(rows.features[column].names)
    names = sorted({value for value in values if value != UNKNOWN})
    places = {name: place for place, name in enumerate(names)}
    return [places.get(value, UNKNOWN) for value in values], [str(name) for name in names]


def described(rows: Any) -> str:
    return ", ".join(f"{name} ({type(feature).__name__})" for name, feature in rows.features.items())


def load_folder(root: Path, split: str, labels: Labels) -> LabelledImages | None:
    """One split of an image folder. None if there is no such split."""
    folder = find_split(root, split)
    if folder is None:
        return None
    classes = [] if labels == "unused" else [path.name for path in visible_folders(folder)]
    if classes:
        files = [list(find_files(folder / name)) for name in classes]
        if split == "train" and (empty := [name for name, found in zip(classes, files) if not found]):
            raise ValueError(f"every class folder in {folder} must hold images. Got none in {listed(empty)}")
    elif labels == "needed":
        raise ValueError(f"{folder} must hold a folder of images for each class. Got no folder")
    else:
        files = [list(find_files(folder))]
    places = [label if classes else UNKNOWN for label, found in enumerate(files) for _ in found]
    paths = [path for found in files for path in found]
    if not paths:
        raise ValueError(f"there are no images in {folder}. Known are {', '.join(IMG_EXTENSIONS)}")
    return LabelledImages(ImageFiles(paths), places, classes, [path.relative_to(folder) for path in paths])


def find_split(root: Path, split: str) -> Path | None:
    """The folder of a split. A folder without splits is "train"; there ``train`` may be the name of a class."""
    names = {path.name for path in visible_folders(root)}
    has_splits = "train" in names and (bool(visible_folders(root / "train")) or names <= {"train", *TEST_SPLITS})
    if has_splits:
        return root / split if split in names else None
    return root if split == "train" else None


def visible_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def find_files(folder: Path) -> Iterator[Path]:
    """All images in a folder and its subfolders, links included, sorted. Hidden files and folders are left out.

    OSError if a folder cannot be read.
    """
    seen = {identity(folder)}
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [
            name for name in folders if identity(Path(parent) / name) not in seen
        ]  # links may lead in circles
        seen |= {identity(Path(parent) / name) for name in folders}
        for name in sorted(names):
            if name.lower().endswith(IMG_EXTENSIONS) and not name.startswith("."):
                yield Path(parent) / name
        warn_of_unread(parent, sorted(names))


def identity(folder: Path) -> tuple[int, int]:
    """A folder as the file system knows it: its device and its number there."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def fail(error: OSError) -> None:
    raise error


def load_test_images(data: str, limit: int | None, classes: Sequence[str]) -> LabelledImages | None:
    """The test images, or the validation images if there are no test images with labels. None if there are neither.

    Args:
        data: as for ``load_images``.
        limit: use only so many images, at random but always the same.
        classes: of the training. The test images get their labels by their classes' names.
    """
    for split in TEST_SPLITS:
        test = load_images(data, split, "optional")
        if test is not None and test.is_labelled:
            test = test.with_classes(classes, f"the {split} split of {data}")
            return test.at(test.some(limit)) if limit else test
    return None


def load_source(source: str, labels: Labels = "needed") -> LabelledImages:
    """The training images of one source. ValueError if there are none, or if only some have labels."""
    images = load_images(source, "train", labels)
    if images is None:
        raise ValueError(f"{source} must have a split train. Got {', '.join(split_names(source)) or 'none'}")
    if images.classes and not images.is_labelled:
        unknown = sum(label <= UNKNOWN for label in images.labels)
        raise ValueError(f"every image of {source} must have a label. Got {unknown} of {len(images)} without one")
    return images


def split_names(data: str) -> list[str]:
    root = Path(data)
    if root.is_dir() and not holds_shards(root):
        return [path.name for path in visible_folders(root)]
    return get_dataset_split_names(data)


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
