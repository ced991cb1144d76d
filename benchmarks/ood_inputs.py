"""What ood.py takes: the in-distribution images, and sets of images near to and far from CIFAR-10's ten classes.

Textures without a download from the Hub are in Debian's game UFO: Alien Invasion (here without its normal, gloss,
specular and roughness maps), Fashion-MNIST is a Debian package too:

    apt-get download ufoai-textures dataset-fashion-mnist
    for package in *.deb; do dpkg -x "$package" debian; done
    unzip -q "$(find debian -name 0textures.pk3)" 'textures/tex_buildings/*' 'textures/tex_material/*' \\
        'textures/tex_nature/*' 'textures/tex_streets/*' 'textures/tex_terrain/*' \\
        -x '*_nm.*' '*_gm.*' '*_sm.*' '*_rm.*' -d runs/ood
    mkdir -p runs/ood/fashion && cp debian/usr/share/datasets/fashion-mnist/t10k-images* runs/ood/fashion
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F
from tqdm.auto import tqdm

from diffaug_transforms.robustness import ShiftSet
from diffaug_transforms.robustness.ood_sets import read_image_folder

#: ImageNet-1k's classes that one of CIFAR-10's ten names fits, or fits what their photos usually show besides
#: (dogsled, carousel, dock, paddle, car wheel). Wide where in doubt: wild cats, wolves, foxes, hyenas, antelopes, the
#: zebra, the airship, the space shuttle, whatever floats with people, all motor vehicles but two-wheelers and trains.
OVERLAP = {
    "airplane": "404-405 812 895 908",
    "bird": "7-24 80-100 127-146",
    "cat": "281-293",
    "deer": "351-353",
    "dog": "151-280 537",
    "frog": "30-32",
    "horse": "339-340 476 603",
    "ship": "403 472 484 510 536 554 576 625 628 693-694 724 780 814 833 871 913-914",
    "automobile, truck": "407-408 436 468 475 479 511 555 561 569 573 575 581 586 595 609 627 654 656 660-661 675 717 "
    "734 751 757 779 803 817 829 847 856 864 866-867 874",
}
FILTERS = ("bilinear", "bicubic", "box", "lanczos")
FASHION_FILE = "t10k-images-idx3-ubyte.gz"
IDX_IMAGES = b"\x00\x00\x08\x03"  # of bytes, in three dimensions


@dataclass(frozen=True)
class Images:
    """A set in memory: uint8 (N, 3, H, W); ``distance`` is "id", "near" or "far"."""

    name: str
    distance: str
    pixels: Tensor


@dataclass(frozen=True)
class Case:
    """What all classifiers that know the same classes are judged on; ``labels`` are places in those classes."""

    known: Images
    labels: Tensor
    fit: Tensor
    sets: list[Images]


def read_hub(
    name: str, data: str, size: int, resize: int, *, split: str = "test", filter: str = "bilinear"
) -> tuple[ShiftSet, list[str]]:
    """A set of the Hub, or of a folder in its layout, cut as ``read_image_folder`` cuts; and its classes' names.

    ``test`` is the validation split where there is one: ImageNet's test split has no labels.
    """
    splits = load_dataset(data)
    names = ("validation", "valid", "test") if split == "test" else (split,)
    found = [name for name in names if name in splits]
    if not found:
        raise ValueError(f"{data} must have a split {' or '.join(names)}. Got {', '.join(splits)}")
    rows = splits[found[0]]
    column = "img" if "img" in rows.features else "image"
    cut = v2.Compose([v2.Resize(resize, InterpolationMode(filter), antialias=True), v2.CenterCrop(size)])
    read = partial(_read_row, rows, column, cut)
    if "label" not in rows.features:
        return ShiftSet(name, [()] * len(rows), None, read), []
    labels: list[tuple[int, ...]] = [(label,) for label in rows["label"][:]]
    return ShiftSet(name, labels, None, read), list(getattr(rows.features["label"], "names", []))


def _read_row(rows: Any, column: str, cut: v2.Transform, index: int) -> Tensor:
    return F.pil_to_tensor(cut(rows[index][column].convert("RGB")))


def read_photos(data: str, size: int, resize: int, filter: str = "bilinear") -> ShiftSet:
    """ImageNet's photos of classes that CIFAR-10 lacks. Resized by FILTERS' others they are sharper than CIFAR-10."""
    name = "photos" if filter == "bilinear" else f"photos ({filter})"
    photos, _ = read_hub(name, data, size, resize, filter=filter)
    overlap = overlapping_classes()
    return keep(photos, [i for i, (label,) in enumerate(photos.labels) if label not in overlap], photos.name)


def overlapping_classes() -> set[int]:
    runs = [run.split("-") for line in OVERLAP.values() for run in line.split()]
    return {k for run in runs for k in range(int(run[0]), int(run[-1]) + 1)}


def read_set(name: str, data: str, size: int, resize: int) -> ShiftSet:
    """Any folder of images; or a Hub id, or a folder in the Hub's layout."""
    folder = Path(data)
    if folder.is_dir() and not any(folder.rglob("*.parquet")):
        return replace(read_image_folder(folder, size, resize=resize), name=name)
    return read_hub(name, data, size, resize)[0]


def read_fashion(folder: Path, size: int) -> ShiftSet:
    """Fashion-MNIST's test images, 28x28 and grey, resized (bilinear) and as RGB."""
    grey = read_idx(folder / FASHION_FILE)
    return ShiftSet("fashion-mnist", [()] * len(grey), None, partial(_enlarge, grey, size))


def _enlarge(images: Tensor, size: int, index: int) -> Tensor:
    return F.resize(images[index].expand(3, -1, -1), [size, size], antialias=True)


def read_idx(path: Path) -> Tensor:
    """Images of a gzip-compressed IDX file (yann.lecun.com/exdb/mnist), uint8 (N, H, W). OSError for a broken one."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise OSError(f"{path} is no whole gzip file: {error}") from error
    if len(content) < 16 or content[:4] != IDX_IMAGES:
        raise OSError(f"{path} must be an IDX file of images, which starts with {IDX_IMAGES!r}. Got {content[:4]!r}")
    shape = np.frombuffer(content, ">u4", 3, offset=4).astype(int).tolist()
    if len(content) != 16 + np.prod(shape):
        raise OSError(f"{path} must hold {shape[0]} images of {shape[1]}x{shape[2]}. Got {len(content) - 16} bytes")
    return torch.frombuffer(bytearray(content[16:]), dtype=torch.uint8).reshape(shape)


def noise_sets(number: int, size: int, seed: int = 0) -> list[Images]:
    """Every pixel from N(.5, .25^2), clipped; and every pixel uniform."""
    generator = torch.Generator().manual_seed(seed)
    shape = (number, 3, size, size)
    gaussian = (0.5 + 0.25 * torch.randn(shape, generator=generator)).clamp(0, 1)
    uniform = torch.rand(shape, generator=generator)
    noise = {"gaussian noise": gaussian, "uniform noise": uniform}
    return [Images(name, "far", (255 * pixels).round().to(torch.uint8)) for name, pixels in noise.items()]


def keep(images: ShiftSet, places: Sequence[int], name: str) -> ShiftSet:
    """The images at these places, as a set of this name."""
    kept = [images.full_index(i) for i in places]
    return replace(images, name=name, labels=[images.labels[i] for i in places], kept=kept)


def load(images: ShiftSet, distance: str, limit: int | None = None) -> Images:
    """In memory: the first ``limit`` images of a random order, or all in theirs. ValueError where there are none."""
    if not len(images):
        raise ValueError(f"a set must hold at least one image. Got none in {images.name}")
    chosen = images.subset(limit) if limit is not None else images
    pixels = [chosen[i] for i in tqdm(range(len(chosen)), desc=images.name, leave=False)]
    return Images(images.name, distance, torch.stack(pixels))


def known_classes(spec: str, names: Sequence[str]) -> list[str]:
    """The classes' names that a classifier answers with, in its order: those of its folder, or the data's."""
    config = Path(spec) / "classifier.json"
    known = json.loads(config.read_text())["classes"] if config.exists() else list(names)
    strange = sorted(set(known) - set(names))
    if strange:
        raise ValueError(f"{spec} must know classes of the data only. Got {', '.join(strange)}")
    return known


def split_known(images: ShiftSet, names: Sequence[str], known: Sequence[str]) -> tuple[ShiftSet, ShiftSet]:
    """The images of known classes, labelled with their places in ``known``; and the others, "unknown classes"."""
    place = {names.index(name): k for k, name in enumerate(known)}
    places = range(len(images))
    inside = keep(images, [i for i in places if images.labels[i][0] in place], images.name)
    outside = keep(images, [i for i in places if images.labels[i][0] not in place], "unknown classes")
    return replace(inside, labels=[(place[label],) for (label,) in inside.labels]), outside
