"""ImageNet's test sets under covariate shift, from folders as they are published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import PIL.Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from .corruptions import check_severity
from .imagenet_classes import candidate_classes, folder_classes
from .shift_sets import ShiftSet

LAYOUTS = {
    "imagenet": "n01440764/*.JPEG",
    "imagenet-c": "fog/5/n01440764/*.JPEG or weather/fog/5/n01440764/*.JPEG",
    "imagenet-r": "n01443537/*.jpg and the like, of its 200 classes",
    "imagenet-s": "n01440764/*",
    "imagenet-sketch": "n01440764/*.JPEG",
    "imagenet-a": "n01498041/*.jpg and the like, of its 200 classes",
    "imagenet-d": "background/chair/* or chair/*",
}
IMAGENET_SETS = tuple(LAYOUTS)
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
ATTRIBUTES = ("background", "texture", "material")

Prepare = Callable[[PIL.Image.Image], PIL.Image.Image]


def read_imagenet_set(
    name: str,
    folder: str | Path,
    *,
    corruption: str | None = None,
    severity: int | None = None,
    transform: Prepare | None = None,
) -> ShiftSet:
    """ImageNet's validation images, or a shifted test set for its 1000 classes, as published.

    =================== ========================================== ======================= ============================
    ``name``            files under ``folder``                     predictions out of      source
    =================== ========================================== ======================= ============================
    ``imagenet``        ``n01440764/*.JPEG``                       1000 classes            Russakovsky et al. 2015
    ``imagenet-c``      ``fog/5/n01440764/*.JPEG``, or one deeper  1000                    Hendrycks, Dietterich 2019
    ``imagenet-r``      ``n01443537/*.jpg``                        its 200                 Hendrycks et al. 2021
    ``imagenet-s``      ``n01440764/*``, Stylized-ImageNet's val   1000                    Geirhos et al. 2019
    ``imagenet-sketch`` ``n01440764/*.JPEG``                       1000                    Wang et al. 2019
    ``imagenet-a``      ``n01498041/*.jpg``                        its 200                 Hendrycks et al. 2021
    ``imagenet-d``      ``background/chair/*``, or ``chair/*``     1000, several are right Zhang et al. 2024
    =================== ========================================== ======================= ============================

    A folder may hold some of the classes only. Classes come from timm's lists, see ``folder_classes``.

    Args:
        name: as above.
        folder: of .jpg, .jpeg, .png or .webp files.
        corruption, severity: of ``imagenet-c``, and of no other set.
        transform: from an RGB PIL image to the one that is read, all of one size. None: ImageNet's usual Resize(256),
            CenterCrop(224); for ``imagenet-c``, which is published so, CenterCrop(224).

    Raises:
        OSError: the folder is missing, or an image that is read is broken.
        ValueError: an argument or the files are not as above.
        ImportError: the extra ``train``, which brings timm, is not installed.

    Example:
        >>> data = read_imagenet_set("imagenet-r", "data/imagenet-r").subset(1000)  # doctest: +SKIP
        >>> logits = classifier(data[0][None].float() / 255)  # doctest: +SKIP
        >>> data.correct(logits, [0])  # doctest: +SKIP
    """
    if name not in IMAGENET_SETS:
        raise ValueError(f"name must be one of {', '.join(IMAGENET_SETS)}. Got {name!r}")
    roots = _find_roots(name, Path(folder), corruption, severity)
    paths, labels = _find_images(name, roots)
    crop = v2.CenterCrop(224)
    usual = crop if name == "imagenet-c" else v2.Compose([v2.Resize(256, antialias=True), crop])
    return ShiftSet(name, labels, candidate_classes(name), partial(read_file, paths, transform or usual))


def _find_roots(name: str, folder: Path, corruption: str | None, severity: int | None) -> list[Path]:
    """The folders that hold one folder for each class."""
    if not folder.is_dir():
        raise OSError(f"there is no folder {folder}")
    if name != "imagenet-c":
        if corruption is not None or severity is not None:
            raise ValueError(f"only imagenet-c has a corruption and a severity. Got {corruption!r}, {severity!r}")
        attributes = [folder / attribute for attribute in ATTRIBUTES if (folder / attribute).is_dir()]
        return attributes if name == "imagenet-d" and attributes else [folder]
    if corruption is None or severity is None:
        raise ValueError(f"imagenet-c needs a corruption and a severity. Got {corruption!r}, {severity!r}")
    check_severity(severity)
    inner = f"{corruption}/{severity}"
    roots = [root for root in (folder / inner, *sorted(folder.glob(f"*/{inner}"))) if root.is_dir()]
    if not roots:
        raise OSError(f"there is no {inner} in {folder} or in a folder of it")
    return roots[:1]


def _find_images(name: str, roots: Sequence[Path]) -> tuple[list[str], list[tuple[int, ...]]]:
    """Files and their right classes, sorted by folder and file name."""
    classes = folder_classes(name)
    paths: list[str] = []
    labels: list[tuple[int, ...]] = []
    for root in roots:
        for folder in sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != "."):
            if folder.name not in classes:
                raise ValueError(f"{name} must be laid out as {LAYOUTS[name]}. Got the folder {folder}")
            images = sorted(path for path in folder.iterdir() if is_image(path))
            paths += map(str, images)
            labels += [classes[folder.name]] * len(images)
    if not paths:
        raise ValueError(f"{name} must be laid out as {LAYOUTS[name]}. Got no images in {', '.join(map(str, roots))}")
    return paths, labels


def is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.name[0] != "."


def read_file(paths: Sequence[str], transform: Prepare, index: int) -> Tensor:
    try:
        with PIL.Image.open(paths[index]) as file:
            image = file.convert("RGB")
    except OSError as error:
        raise OSError(f"{paths[index]} is no whole image: {error}") from error
    return F.pil_to_tensor(transform(image))
