"""The part of Tiny ImageNet that OpenOOD tests CIFAR-10's classifiers on (Zhang et al., arXiv 2306.09301).

OpenOOD 1.5 leaves out 1,207 of Tiny ImageNet's 10,000 validation images because they show what CIFAR-10's classes do:
20 whole classes, all but 8 images of four further classes, and 15 single images. It sets 20 other classes apart for the
choice of hyperparameters. The 7,793 images that remain are its test images, `test_tin.txt` of its list of files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import PIL.Image
from torch.utils.data import Subset

from diffaug_transforms.robustness.evaluation.sets import HubImages

#: Places among the 200 classes, sorted by their WordNet ids. Frogs, birds, dogs, cats, cars, a van, a bus and boats.
OVERLAP = {2, 3, 11, 20, 21, 22, 24, 25, 26, 27, 28, 29, 31, 70, 94, 108, 115, 133, 145, 153}
#: Classes set apart, such as jellyfish, chimpanzee, altar and pizza.
VALIDATION = {13, 37, 55, 60, 61, 71, 81, 87, 118, 134, 140, 143, 147, 154, 165, 178, 184, 185, 191, 195}
#: The images that are kept of tabby, Egyptian cat, limousine and moving van: N in ``val_N.JPEG``.
KEPT_OF_CLASS = {30: {9316}, 32: {3131}, 116: {1030, 1406, 2659}, 121: {622, 4915, 6632}}
#: Single images that are left out, among them a cauliflower, two projectiles and a go-kart.
LEFT_OUT = {121, 1534, 1555, 2344, 3562, 4518, 4845, 4862, 5096, 5114, 6179, 7411, 7740, 8064, 9996}
NUMBER = 7793


def read_tiny_imagenet(data: str, transform: Callable[[PIL.Image.Image], PIL.Image.Image]) -> Subset:
    """OpenOOD's test images. ``data``: Tiny ImageNet as ``HubImages`` takes it, with the images' own file names.

    ValueError if file names or the numbers of the classes are not Tiny ImageNet's.
    """
    images = HubImages(data, transform=transform)
    files = [Path(cell["path"] or "").name for cell in images.rows[images.column]]
    if set(files) != {f"val_{n}.JPEG" for n in range(10000)} or len(files) != 10000:
        got = f"{len(files)}, the first of them {files[0]!r}" if files else "none"
        raise ValueError(f"{data} must have the 10,000 files val_0.JPEG to val_9999.JPEG of Tiny ImageNet. Got {got}")
    numbers = (int(name.removeprefix("val_").removesuffix(".JPEG")) for name in files)
    chosen = [i for i, (n, label) in enumerate(zip(numbers, images.targets)) if is_test_image(n, label)]
    if len(chosen) != NUMBER:
        raise ValueError(
            f"{data} must number Tiny ImageNet's classes in the order of their WordNet ids, which leaves {NUMBER:,} "
            f"images. Got {len(chosen):,}"
        )
    return Subset(images, chosen)


def is_test_image(number: int, label: int) -> bool:
    """Whether ``val_NUMBER.JPEG``, of this class, is one of OpenOOD's test images."""
    if label in KEPT_OF_CLASS:
        return number in KEPT_OF_CLASS[label]
    return label not in OVERLAP | VALIDATION and number not in LEFT_OUT
