"""Test sets as torch data sets of (uint8 image (3, H, W), target): Hub data sets, and sets made from others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ...images import load_image
from ..corruptions import CORRUPTIONS

Images = Dataset[tuple[Tensor, Any]]
#: A split without labels, such as the test split of the Hub's ``imagenet-1k``, gives way to the next one.
TEST_SPLITS = ("test", "validation", "val", "valid")
#: Names of the column with the classes.
LABEL_COLUMNS = ("label", "labels", "fine_label")
#: The side that ImageNet's classifiers see and that ImageNet-C is made and published at, in pixels.
CROP = 224


class HubImages(Images):
    """A split of a Hub data set, of a folder in the Hub's layout, or of a Parquet file: images, and labels if any.

    Labels are the first of the columns ``LABEL_COLUMNS``, or else the only one of type ClassLabel. Names are numbered
    in their alphabetical order.

    Args:
        data: the Hub id, ``owner/name`` or ``owner/name:configuration``, the folder or the file.
        split: "train" or another; "test" stands for the first of ``TEST_SPLITS`` whose labels are known.
        transform: from a PIL image to a PIL image. None: as it is.

    Attributes:
        targets: the labels, -1 if there are none. classes: their names, if they are known.
    """

    def __init__(
        self, data: str, split: str = "test", transform: Callable[[PIL.Image.Image], PIL.Image.Image] | None = None
    ) -> None:
        from datasets import Image

        splits = load_splits(data)
        found = [splits[name] for name in (TEST_SPLITS if split == "test" else (split,)) if name in splits]
        if not found:
            raise ValueError(f"{data} must have a {split} split. Got {', '.join(splits)}")
        known = [rows for rows in found if has_labels(rows)]
        rows = (known or found)[0]
        self.data, self.transform = data, transform
        self.column = find_column(rows, data)
        self.rows = rows.cast_column(self.column, Image(decode=False))
        self.targets, self.classes = read_labels(rows) if known else ([-1] * len(rows), [])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        cell = self.rows[int(index)][self.column]
        if cell is None:
            raise OSError(f"row {index} of {self.data} has no image")
        name = f"row {index} of {self.data} ({cell['path']})"
        image = load_image(cell["path"] if cell["bytes"] is None else cell["bytes"], name)
        return F.pil_to_tensor(image if self.transform is None else self.transform(image)), self.targets[index]

    def stored_item(self, index: int) -> tuple[bytes, int, str]:
        """The bytes of the picture's file, the target, and what is done to the picture."""
        cell = self.rows[int(index)][self.column]
        file = Path(cell["path"]).read_bytes() if cell["bytes"] is None else cell["bytes"]
        return file, self.targets[index], repr(self.transform)


class Prepared(Images):
    """A dataset whose images go through a transform of PIL images."""

    def __init__(self, dataset: Any, transform: Callable[[PIL.Image.Image], PIL.Image.Image]) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        image, target = self.dataset[index]
        return F.pil_to_tensor(self.transform(F.to_pil_image(image))), target


class OneSize(Images):
    """A dataset whose images must have one size. ValueError for an image of another one."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.size: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        image, target = self.dataset[index]
        self.size = self.size or tuple(self.dataset[0][0].shape[-2:])
        if tuple(image.shape[-2:]) != self.size:
            (height, width), (first_height, first_width) = image.shape[-2:], self.size
            raise ValueError(
                f"all images must have one size, or size must be given. Got {first_width}x{first_height} and "
                f"{width}x{height}, image {index}"
            )
        return image, target


def load_splits(data: str) -> Any:
    """All splits by name. A Parquet file is a test split."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise ImportError('data sets need datasets: pip install "diffaug-transforms[train]"') from None
    try:
        if data.endswith(".parquet"):
            return load_dataset("parquet", data_files={"test": data})
        if Path(data).is_dir():
            return load_dataset(data)
        name, _, configuration = data.partition(":")
        return load_dataset(name, configuration or None)
    except (FileNotFoundError, ConnectionError) as error:
        raise OSError(f"{data} cannot be loaded as a folder, a .parquet file or a Hub data set: {error}") from error


def label_column(rows: Any) -> str | None:
    """The column of the labels, or None."""
    from datasets import ClassLabel

    named = [name for name in LABEL_COLUMNS if name in rows.features]
    typed = [name for name, feature in rows.features.items() if isinstance(feature, ClassLabel)]
    return named[0] if named else typed[0] if len(typed) == 1 else None


def has_labels(rows: Any) -> bool:
    """Whether every row has one class. Test splits without public labels say -1."""
    column = label_column(rows)
    return column is not None and all(
        isinstance(label, str) or (isinstance(label, int) and label >= 0) for label in rows[column][:]
    )


def read_labels(rows: Any) -> tuple[list[int], list[str]]:
    """The labels of all rows as numbers, and the names of the classes if they are known."""
    column = label_column(rows)
    values = list(rows[column][:])
    if not any(isinstance(value, str) for value in values):
        return values, list(getattr(rows.features[column], "names", []))
    names = sorted(set(map(str, values)))
    places = {name: place for place, name in enumerate(names)}
    return [places[str(value)] for value in values], names


def find_column(rows: Any, data: str) -> str:
    """The column with the pictures. ValueError if there is none."""
    from datasets import Image

    columns = [name for name, feature in rows.features.items() if isinstance(feature, Image)]
    if not columns:
        raise ValueError(f"{data} must have a column of images. Got {', '.join(rows.features)}")
    return "img" if "img" in columns else "image" if "image" in columns else columns[0]


def center_crop(size: int, resize: int | None = None, filter: str = "bilinear") -> v2.Compose:
    """The shorter side to ``resize`` (default: ``size``), then the centre of ``size``."""
    interpolation = v2.InterpolationMode(filter)
    return v2.Compose([v2.Resize(resize or size, interpolation, antialias=True), v2.CenterCrop(size)])


def holds_corruptions(folder: Path) -> bool:
    """Whether this is the folder of a published CIFAR-10-C or ImageNet-C, which have no clean images."""
    severities = (path for c in CORRUPTIONS for path in (*folder.glob(f"{c}/[1-5]"), *folder.glob(f"*/{c}/[1-5]")))
    return (folder / "labels.npy").exists() or any(path.is_dir() for path in severities)
