"""The in-distribution images, and sets of images near to and far from CIFAR-10's ten classes.

Textures and Fashion-MNIST without a download from the Hub are in Debian packages. The textures are those of the game
UFO: Alien Invasion, here without its normal, gloss, specular and roughness maps:

    apt-get download ufoai-textures dataset-fashion-mnist
    for package in *.deb; do dpkg -x "$package" debian; done
    unzip -q "$(find debian -name 0textures.pk3)" 'textures/tex_buildings/*' 'textures/tex_material/*' \\
        'textures/tex_nature/*' 'textures/tex_streets/*' 'textures/tex_terrain/*' \\
        -x '*_nm.*' '*_gm.*' '*_sm.*' '*_rm.*' -d runs/ood
    mkdir -p runs/ood/fashion && cp debian/usr/share/datasets/fashion-mnist/t10k-images* runs/ood/fashion
    gunzip runs/ood/fashion/*.gz
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision.datasets.mnist import read_image_file
from torchvision.transforms.v2 import functional as F

from diffaug_transforms.robustness.datasets import load_image_folder, random_subset
from diffaug_transforms.robustness.evaluation.classifiers import classifier_folder
from diffaug_transforms.robustness.evaluation.sets import HubImages, Images, center_crop

from ..harness.options import default_workers
from .openood import read_tiny_imagenet

#: ImageNet-1k's classes that one of CIFAR-10's ten names fits, or fits what their photos usually show besides
#: (dogsled, carousel, dock, paddle, car wheel). Wide if in doubt: wild cats, wolves, foxes, hyenas, antelopes, the
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
FASHION_FILE = "t10k-images-idx3-ubyte"
#: In front of the path or Hub id of Tiny ImageNet, for OpenOOD's part of it.
OPENOOD = "openood:"


class ImageSet(NamedTuple):
    """A set in memory: uint8 (N, 3, H, W). ``distance`` is "id", "near" or "far"."""

    name: str
    distance: str
    pixels: Tensor


class Case(NamedTuple):
    """What all classifiers that know the same classes are judged on. ``labels`` are places among those classes."""

    known: ImageSet
    labels: Tensor
    fit: Tensor
    sets: list[ImageSet]


def make_case(args: argparse.Namespace, known: Sequence[str], test: HubImages) -> Case:
    """The images of known classes; and as sets out of distribution the unknown classes, or else ``read_sets``."""
    train = HubImages(args.data, "train", test.transform)
    inside, outside = split_known(test, known, args.images)
    fit, _ = split_known(train, known)
    place = {test.classes.index(name): k for k, name in enumerate(known)}
    labels = torch.tensor([place[test.targets[i]] for i in inside.indices])
    sets = [load("unknown classes", "near", outside, args.limit)] if len(outside) else read_sets(args)
    return Case(load(Path(args.data).name, "id", inside), labels, load("fit", "id", fit, args.fit_images).pixels, sets)


def split_known(data: HubImages, known: Sequence[str], limit: int | None = None) -> tuple[Subset, Subset]:
    """The images of known classes and the others, among the first ``limit`` of a random order or among all."""
    strange = sorted(set(known) - set(data.classes))
    if strange:
        raise ValueError(f"a classifier must know classes of the data only. Got {', '.join(strange)}")
    places = random_subset(data, limit).indices if limit else range(len(data))
    is_known = {i: data.classes[data.targets[i]] in known for i in places}
    inside, outside = ([i for i in places if is_known[i] is wanted] for wanted in (True, False))
    return Subset(data, inside), Subset(data, outside)


def known_classes(spec: str, names: Sequence[str]) -> tuple[str, ...]:
    """The classes' names that a classifier answers with, in its order: those of its folder, or the data's."""
    config = classifier_folder(spec) / "classifier.json"
    return tuple(json.loads(config.read_text())["classes"] if config.exists() else names)


def read_sets(args: argparse.Namespace) -> list[ImageSet]:
    """All OOD sets for classifiers that know all classes."""
    resize = args.resize or args.size
    sets: list[tuple[str, str, Images]] = []
    for filter in args.filters if args.photos else ():
        name = "photos" if filter == "bilinear" else f"photos ({filter})"
        sets.append((name, "near", read_photos(args.photos, args.size, resize, filter)))
    for distance in ("near", "far"):
        for name, data in map(parse_named, getattr(args, distance)):
            sets.append((name, distance, read_set(data, args.size, resize)))
    if args.fashion:
        sets.append(("fashion-mnist", "far", read_fashion(args.fashion, args.size)))
    return [load(name, distance, data, args.limit) for name, distance, data in sets] + noise_sets(args.limit, args.size)


def parse_named(item: str) -> tuple[str, str]:
    name, equals, data = item.partition("=")
    if not (name and equals and data):
        raise ValueError(f"a set must be NAME=DATA. Got {item!r}")
    return name, data


def load(name: str, distance: str, data: Images, limit: int | None = None) -> ImageSet:
    """In memory: the first ``limit`` images of a random order, or all in theirs. ValueError if there are none."""
    if not len(data):  # type: ignore[arg-type]
        raise ValueError(f"a set must hold at least one image. Got none in {name}")
    chosen = random_subset(data, limit) if limit else data
    parts = DataLoader(chosen, 64, num_workers=default_workers())
    return ImageSet(name, distance, torch.cat([images for images, _ in parts]))


def read_photos(data: str, size: int, resize: int, filter: str = "bilinear") -> Images:
    """ImageNet's photos of classes that CIFAR-10 lacks. Other filters leave them sharper than CIFAR-10."""
    photos, overlap = HubImages(data, transform=center_crop(size, resize, filter)), overlapping_classes()
    return Subset(photos, [i for i, label in enumerate(photos.targets) if label not in overlap])


def overlapping_classes() -> set[int]:
    runs = [run.split("-") for line in OVERLAP.values() for run in line.split()]
    return {k for run in runs for k in range(int(run[0]), int(run[-1]) + 1)}


def read_set(data: str, size: int, resize: int) -> Images:
    """Any folder of images; a Hub id, or a folder in the Hub's layout; behind ``OPENOOD``, a part of Tiny ImageNet."""
    if data.startswith(OPENOOD):
        return read_tiny_imagenet(data.removeprefix(OPENOOD), center_crop(size, resize))
    folder = Path(data)
    if folder.is_dir() and not any(folder.rglob("*.parquet")):
        return load_image_folder(folder, size, resize=resize)
    return HubImages(data, transform=center_crop(size, resize))


def read_fashion(folder: Path, size: int) -> Images:
    """Fashion-MNIST's test images, 28x28 and grey, resized (bilinear) and as RGB."""
    grey = read_image_file(str(folder / FASHION_FILE))
    enlarged = F.resize(grey[:, None], [size, size], antialias=True).expand(-1, 3, -1, -1)
    return cast(Images, TensorDataset(enlarged, torch.full((len(grey),), -1)))


def noise_sets(number: int, size: int, seed: int = 0) -> list[ImageSet]:
    """Every pixel from N(0.5, 0.25^2), clipped; and every pixel uniform."""
    generator = torch.Generator().manual_seed(seed)
    shape = (number, 3, size, size)
    gaussian = (0.5 + 0.25 * torch.randn(shape, generator=generator)).clamp(0, 1)
    uniform = torch.rand(shape, generator=generator)
    noise = {"gaussian noise": gaussian, "uniform noise": uniform}
    return [ImageSet(name, "far", (255 * pixels).round().to(torch.uint8)) for name, pixels in noise.items()]


def degradations(seed: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """What is done to images (N, 3, 32, 32) in [0, 1]."""

    def noisy(images: Tensor) -> Tensor:
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
        return (images + 0.1 * noise).clamp(0, 1)

    return {
        "as it is": lambda images: images,
        "blur .5": lambda images: F.gaussian_blur(images, [7, 7], [0.5, 0.5]),
        "blur 1": lambda images: F.gaussian_blur(images, [7, 7], [1.0, 1.0]),
        "noise .1": noisy,
        "half contrast": lambda images: 0.25 + 0.5 * images,
        "inverted": lambda images: 1 - images,
    }
