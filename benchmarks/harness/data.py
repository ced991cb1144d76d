"""Test sets as torch data sets of (uint8 image (3, H, W), target), and the noise that belongs to each image."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.images import load_image
from diffaug_transforms.robustness import CORRUPTIONS, IMAGENET_SETS
from diffaug_transforms.robustness.datasets import Corrupted, load_cifar10_c, load_imagenet_set

from .options import default_device

T = TypeVar("T")
Images = Dataset[tuple[Tensor, Any]]
SETS = ("cifar10", "cifar10-c", *IMAGENET_SETS)
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
#: A split without labels, such as the test split of the Hub's ``imagenet-1k``, gives way to the next one.
TEST_SPLITS = ("test", "validation", "valid")
#: The side that ImageNet's classifiers see and that ImageNet-C is made and published at, in pixels.
CROP = 224


def side_of(network: ScoreNetwork) -> int:
    """The side of the images that a network is measured on: its own, or 224 pixels for a network of any size."""
    return network.image_size or CROP


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
        from datasets import Image, load_dataset

        splits = load_dataset(data)
        found = [splits[name] for name in (TEST_SPLITS if split == "test" else (split,)) if name in splits]
        if not found:
            raise ValueError(f"{data} must have a {split} split. Got {', '.join(splits)}")
        known = [rows for rows in found if has_labels(rows)]
        rows = (known or found)[0]
        self.data, self.transform = data, transform
        self.column = find_column(rows, data)
        self.rows = rows.cast_column(self.column, Image(decode=False))
        self.targets: list[int] = list(self.rows["label"][:]) if known else [-1] * len(self.rows)
        self.classes: list[str] = list(getattr(self.rows.features.get("label"), "names", []))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        cell = self.rows[int(index)][self.column]
        name = f"row {index} of {self.data} ({cell['path']})"
        image = load_image(cell["path"] if cell["bytes"] is None else cell["bytes"], name)
        return F.pil_to_tensor(image if self.transform is None else self.transform(image)), self.targets[index]

    def stored_item(self, index: int) -> tuple[bytes, int, str]:
        """The bytes of the picture's file, the target, and what is done to the picture."""
        cell = self.rows[int(index)][self.column]
        file = Path(cell["path"]).read_bytes() if cell["bytes"] is None else cell["bytes"]
        return file, self.targets[index], repr(self.transform)


def has_labels(rows: Any) -> bool:
    """Whether every row has a class. Test splits without public labels say -1."""
    return "label" in rows.features and all(label is not None and label >= 0 for label in rows["label"][:])


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


def open_set(
    name: str, data: str, corruption: str = "clean", severity: int = 0, *, resize: int | None = None
) -> Images:
    """A test set from its published files; or, if ``data`` is the clean set, corrupted on the fly.

    Args:
        name: one of ``SETS``.
        data: folder of the published files. For ``cifar10``, ``cifar10-c``, ``imagenet`` and ``imagenet-c`` also the
            clean test set: a Hub id, or a folder in the Hub's layout.
        corruption: "clean", or one of ``CORRUPTIONS``.
        severity: 1...5, for a corruption.
        resize: give ImageNet's images as squares of this side, from a shorter side of this length. Corruptions are
            made at 224 pixels all the same. None: 224, ImageNet-C's images as published and the others from 256.

    Raises:
        ValueError: ``resize`` for CIFAR-10, or below 224.
    """
    if resize is not None and (name not in IMAGENET_SETS or resize < CROP):
        raise ValueError(f"resize must be at least {CROP}, and is for ImageNet's sets only. Got {resize} for {name}")
    square = None if resize is None else center_crop(resize)
    folder = Path(data)
    if holds_corruptions(folder):
        if name == "cifar10-c":
            return load_cifar10_c(folder, corruption, severity)
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


def holds_corruptions(folder: Path) -> bool:
    """Whether this is the folder of a published CIFAR-10-C or ImageNet-C, which have no clean images."""
    named = (path for c in CORRUPTIONS for path in (folder / c, *folder.glob(f"*/{c}")))
    return (folder / "labels.npy").exists() or any(path.is_dir() for path in named)


def places_in_full(data: Images) -> list[int]:
    """The place of each image in the full set, of which ``data`` may be a Subset. An image's noise depends on it."""
    return list(data.indices) if isinstance(data, Subset) else list(range(len(data)))  # type: ignore[arg-type]


class Batch(NamedTuple):
    """A batch of a test set.

    Attributes:
        images: uint8 (B, C, H, W). targets: (B,) or (B, M).
        places: of the images in the full set, see ``places_in_full``.
        noise: of ``draw_noise``, (number, B, C, H, W), by number.
    """

    images: Tensor
    targets: Tensor
    places: list[int]
    noise: dict[int, Tensor]


def batches(
    data: Images,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    *,
    workers: int = 0,
    numbers: Collection[int] = (),
    seed: int = 0,
) -> Iterator[Batch]:
    """Batches of every ``world``-th image from ``rank`` on. The next one is made while one is used.

    Args:
        workers: processes that read, decode and corrupt images. 0: a thread does it.
        numbers: how many draws of noise each image gets; a batch has the noise of each number. Threads draw it, because
            it is too large to send between processes.
        seed: of the noise.
    """
    own = Subset(data, range(rank, len(data), world))  # type: ignore[arg-type]
    places = places_in_full(data)[rank::world]
    workers = min(workers, -(-len(own) // batch_size))

    def make() -> Iterator[Batch]:
        loader = DataLoader(own, batch_size, num_workers=workers, pin_memory=torch.cuda.is_available())
        for start, (images, targets) in zip(range(0, len(places), batch_size), loader):
            here = places[start : start + batch_size]
            noise = {number: pin(draw_noise(here, number, images.shape[1:], seed)) for number in numbers}
            yield Batch(images, targets, here, noise)

    return ahead(make())


def read_images(data: Images, places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) in [0, 1] and targets, at these places in ``data``, on the GPU if there is one."""
    images, targets = default_collate([data[place] for place in places])
    return images.to(default_device()).float() / 255, targets.to(default_device())


def draw_noise(places: Sequence[int], number: int, size: Sequence[int], seed: int) -> Tensor:
    """(number, B, C, H, W). An image's noise depends on the seed and its place alone, not on its batch or process."""

    def draw(place: int) -> Tensor:
        generator = torch.Generator().manual_seed(hash((seed, place)) % 2**63)
        return torch.randn(number, *size, generator=generator)

    if len(places) == 1:
        return draw(places[0])[:, None]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return torch.stack(list(pool.map(draw, places)), dim=1)


def pin(tensor: Tensor) -> Tensor:
    """A copy in memory from which a GPU takes it without the host's waiting; the tensor itself without a GPU."""
    return tensor.pin_memory() if torch.cuda.is_available() else tensor


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items. While one is used, a thread makes the next."""
    source = iter(items)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, source, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, source, None)
            yield item
