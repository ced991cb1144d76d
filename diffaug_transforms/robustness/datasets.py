"""Test sets under covariate shift and out of distribution, read from their published files, as torch data sets.

An item is an image, uint8 (3, H, W), and its target: a class, or -1 if no class is right. In ImageNet-D several classes
may be right, so its targets are int64 (M,), padded with -1. ``correct`` judges predictions by these targets. Images are
read when they are asked for. The sets pickle, so DataLoader workers can read them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from ..arguments import as_integer, as_path, check_callable, check_choice, check_instance, listed, shown
from ..images import ASSETS
from ..pictures import load_image, warn_of_unread
from .corruptions import check_severity

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
#: What the folder of each test set for ImageNet's classes holds.
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
#: timm's lists of the classes of the sets that hold 200 of them.
WNID_FILES = {"imagenet-r": "imagenet_r_synsets.txt", "imagenet-a": "imagenet_a_synsets.txt"}

Item = tuple[Tensor, Any]


def load_cifar10_c(folder: str | Path, corruption: str, severity: int) -> Dataset[Item]:
    """CIFAR-10-C as published (zenodo.org/records/2535967; Hendrycks and Dietterich, arXiv 1903.12261).

    A file of 50,000 images holds 10,000 of severity 1, then the same images at severity 2, and so on. Images are read
    from the disk one at a time.

    Args:
        folder: holds ``labels.npy`` and one file for each corruption, such as ``fog.npy``.
        corruption: the name of a file: one of ``CORRUPTIONS``, or one of the four corruptions kept for validation.
        severity: 1...5.

    Raises:
        OSError: a file is missing or unreadable. ValueError: the severity or an array is not as above.

    Example:
        >>> data = load_cifar10_c("data/CIFAR-10-C", "fog", severity=5)  # doctest: +SKIP
        >>> image, target = data[0]  # doctest: +SKIP
        >>> len(data), image.shape, target  # doctest: +SKIP
        (10000, torch.Size([3, 32, 32]), 3)
    """
    check_severity(severity)
    check_instance("corruption", corruption, str)
    folder = as_path("folder", folder)
    path, labels_path = folder / f"{corruption}.npy", folder / "labels.npy"
    images, labels = _open_array(path), _open_array(labels_path)
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or not len(images) or len(images) % 5:
        raise ValueError(f"{path} must be uint8 (5 N, 32, 32, 3). Got {images.dtype} {images.shape}")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise ValueError(f"{labels_path} must be {len(images)} integers. Got {labels.dtype} {labels.shape}")
    if labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"{labels_path} must hold classes in 0...9. Got {labels.min()}...{labels.max()}")
    number = len(images) // 5
    first = (severity - 1) * number
    return _ArrayImages(path, first, labels[first : first + number].tolist())


def load_imagenet_set(
    name: str,
    folder: str | Path,
    *,
    corruption: str | None = None,
    severity: int | None = None,
    transform: Callable[[PIL.Image.Image], Any] | None = None,
) -> Dataset[Item]:
    """ImageNet's validation images, or a shifted test set for its 1000 classes, as published.

    =================== ========================================== ======================= ============================
    ``name``            files under ``folder``                     ``candidate_classes``   source
    =================== ========================================== ======================= ============================
    ``imagenet``        ``n01440764/*.JPEG``                       all 1000                Russakovsky et al. 2015
    ``imagenet-c``      ``fog/5/n01440764/*.JPEG``, or one deeper  all 1000                Hendrycks, Dietterich 2019
    ``imagenet-r``      ``n01443537/*.jpg``                        its 200                 Hendrycks et al. 2021
    ``imagenet-s``      ``n01440764/*``, Stylized-ImageNet's val   all 1000                Geirhos et al. 2019
    ``imagenet-sketch`` ``n01440764/*.JPEG``                       all 1000                Wang et al. 2019
    ``imagenet-a``      ``n01498041/*.jpg``                        its 200                 Hendrycks et al. 2021
    ``imagenet-d``      ``background/chair/*``, or ``chair/*``     1000, several are right Zhang et al. 2024
    =================== ========================================== ======================= ============================

    A folder may hold only some of the classes. Images are sorted by class folder and file name.

    Args:
        name: as above.
        folder: holds .jpg, .jpeg, .png or .webp files.
        corruption, severity: which part of ``imagenet-c`` to load; None for the other sets.
        transform: from an RGB PIL image to the PIL image that is returned. All images must get one size. None means
            ImageNet's usual Resize(256) and CenterCrop(224). ``imagenet-c`` is published cropped, so there None means
            CenterCrop(224) alone. The paper resizes it to 256 first, like the other sets.

    Raises:
        OSError: the folder is missing, or an image that is read is broken.
        ValueError: an argument or the files are not as above.
        ImportError: the extra ``train``, which installs timm, is missing.

    Example:
        >>> data = load_imagenet_set("imagenet-r", "data/imagenet-r")  # doctest: +SKIP
        >>> loader = DataLoader(random_subset(data, 1000), batch_size=50)  # doctest: +SKIP
        >>> for images, targets in loader:  # doctest: +SKIP
        ...     right = correct(classifier(images / 255), targets, candidate_classes("imagenet-r"))
    """
    check_choice("name", name, IMAGENET_SETS)
    check_callable("transform", transform, "a transform of PIL images")
    if transform is None:
        crop = v2.CenterCrop(224)
        transform = crop if name == "imagenet-c" else v2.Compose([v2.Resize(256, antialias=True), crop])
    targets = folder_targets(name)
    roots = _find_roots(name, as_path("folder", folder), corruption, severity)
    parts = []
    for root in roots:
        classes = [path.name for path in root.iterdir() if path.is_dir() and path.name[0] != "."]
        if unknown := sorted(set(classes) - set(targets)):
            known = f"{LAYOUTS[name]}; its classes are {listed([*targets], 5)}"
            raise ValueError(f"{name} must be laid out as {known}. Got the folder {root / unknown[0]}")
        if classes:
            parts.append(LabelledFiles(root, {wnid: targets[wnid] for wnid in classes}, transform))
    if not any(map(len, parts)):
        raise ValueError(f"{name} must be laid out as {LAYOUTS[name]}. Got no images in {', '.join(map(str, roots))}")
    return parts[0] if len(parts) == 1 else ConcatDataset(parts)


def load_image_folder(folder: str | Path, size: int, *, resize: int | None = None) -> Dataset[Item]:
    """All images of a folder and its subfolders, sorted by path. Every target is -1: no class is right.

    Published OOD sets are nested in different ways: Textures is ``images/banded/*.jpg``, SVHN is one flat folder. Their
    classes do not matter for OOD scores.

    Args:
        folder: holds .jpg, .jpeg, .png or .webp files. Hidden files are left out.
        size: the classifier's image size in pixels, the side of the square that is cut from the centre.
        resize: the length of the shorter side before the cut, bilinear. None means ``size``. OpenOOD and
            ``load_imagenet_set`` resize to 256 for 224. For 32 pixels OpenOOD resizes to 32.

    Raises:
        OSError: the folder is missing or holds no images, or an image that is read is broken.
        ValueError, TypeError: a size is not a positive integer, or ``resize`` is below ``size``.

    Example:
        >>> data = load_image_folder("data/textures", 224, resize=256)  # doctest: +SKIP
        >>> image, target = data[0]  # doctest: +SKIP
        >>> image.shape, target  # doctest: +SKIP
        (torch.Size([3, 224, 224]), -1)
    """
    resize = size if resize is None else resize
    size, resize = as_integer("size", size, 1), as_integer("resize", resize, 1)
    if resize < size:
        raise ValueError(f"resize must be at least the size, {size}. Got {resize}")
    folder = as_path("folder", folder)
    if not folder.is_dir():
        raise OSError(f"there is no folder {folder}")
    data = LabelledFiles(folder, {".": -1}, v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(size)]))
    if not len(data):
        raise OSError(f"there are no images ({', '.join(SUFFIXES)}) under {folder}")
    data.samples.sort(key=lambda sample: Path(sample[0]))
    return data


def random_subset(dataset: Dataset[Item], number: int, seed: int = 0) -> Subset[Item]:
    """The first ``number`` items of a random order, in that order, because files are often sorted by class.

    A small subset is the beginning of a larger one with the same seed. A ``number`` beyond the set's length gives all
    items. ValueError if ``number`` is less than 1.

    Example:
        >>> random_subset(range(10), 3).indices
        [4, 1, 7]
    """
    check_dataset(dataset)
    number, seed = as_integer("number", number, 1), as_integer("seed", seed, 0)
    length: int = len(dataset)  # type: ignore[arg-type]
    return Subset(dataset, torch.randperm(length, generator=torch.Generator().manual_seed(seed))[:number].tolist())


def check_dataset(dataset: Any) -> None:
    """TypeError unless it has a length and items."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(f"dataset must have a length and items by index. Got {shown(dataset)}")


def candidate_classes(name: str) -> tuple[int, ...] | None:
    """The only classes that a prediction for a test set is chosen from. None means all.

    Args:
        name: one of ``IMAGENET_SETS`` or of any other set. ImageNet-R and ImageNet-A have 200 classes, others all.

    Raises:
        ImportError: the extra ``train``, which installs timm, is missing.
    """
    check_instance("name", name, str)
    return tuple(sorted(folder_targets(name).values())) if name in WNID_FILES else None


@cache
def folder_targets(name: str) -> dict[str, Any]:
    """The target of each folder that a test set for ImageNet's classes may hold.

    Folders are named by wnids, such as ``n01440764``, and their targets are in 0...999. ImageNet-D's folders are named
    by categories, such as ``chair``, which three classes match. Their targets are int64 (M,), padded with -1.

    Sources: the lists that timm ships. For ImageNet-D, ``preprocessing/imgnet_d2imgnet_id.txt`` of the official code
    (github.com/chenshuang-zhang/imagenet_d; Zhang et al., CVPR 2024, arXiv 2403.18775).
    """
    if name == "imagenet-d":
        categories = json.loads((ASSETS / "imagenet_d.json").read_text())
        width = max(map(len, categories.values()))
        return {name: torch.tensor(right + [-1] * (width - len(right))) for name, right in categories.items()}
    try:
        folder = files("timm.data") / "_info"
    except ImportError as error:
        message = f'ImageNet\'s classes need timm: pip install "diffaug-transforms[train]" ({error})'
        raise ImportError(message) from error
    targets = {wnid: k for k, wnid in enumerate((folder / "imagenet_synsets.txt").read_text().split())}
    if name not in WNID_FILES:
        return targets
    return {wnid: targets[wnid] for wnid in (folder / WNID_FILES[name]).read_text().split()}


class LabelledFiles(ImageFolder):
    """torchvision's ImageFolder with given targets for the folders, instead of their places in the alphabet.

    ``transform`` is from PIL image to PIL image; items are uint8 tensors.
    """

    def __init__(
        self, root: Path, targets: Mapping[str, Any], transform: Callable[[PIL.Image.Image], Any] | None
    ) -> None:
        self.folder_targets = targets
        to_tensor = v2.PILToTensor() if transform is None else v2.Compose([transform, v2.PILToTensor()])
        seen: list[str] = []

        def is_image(path: str) -> bool:
            seen.append(path)
            return _is_image(path)

        super().__init__(root, to_tensor, loader=load_image, is_valid_file=is_image, allow_empty=True)
        warn_of_unread(root, seen)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, Any]]:
        return sorted(self.folder_targets), dict(self.folder_targets)


class _ArrayImages(Dataset[Item]):
    """Consecutive images of a .npy file (N, H, W, 3)."""

    def __init__(self, path: Path, first: int, targets: list[int]) -> None:
        self.path, self.first, self.targets = path, first, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Item:
        index = range(len(self))[index]
        # The file is opened for each image, because a memory map that is pickled becomes the whole array.
        image = np.array(np.load(self.path, mmap_mode="r")[self.first + index])
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), self.targets[index]


def _find_roots(name: str, folder: Path, corruption: str | None, severity: int | None) -> list[Path]:
    """The folders that hold one folder for each class."""
    if not folder.is_dir():
        raise OSError(f"there is no folder {folder}")
    if name != "imagenet-c":
        if corruption is not None or severity is not None:
            raise ValueError(f"only imagenet-c has a corruption and a severity. Got {corruption!r}, {severity!r}")
        attributes = [folder / part for part in ("background", "texture", "material") if (folder / part).is_dir()]
        return attributes if name == "imagenet-d" and attributes else [folder]
    if corruption is None or severity is None:
        raise ValueError(f"imagenet-c needs a corruption and a severity. Got {corruption!r}, {severity!r}")
    check_severity(severity)
    inner = f"{corruption}/{severity}"
    roots = [root for root in (folder / inner, *sorted(folder.glob(f"*/{inner}"))) if root.is_dir()]
    if not roots:
        raise OSError(f"there is no {inner} in {folder} or in a folder of it")
    return roots[:1]


def _is_image(path: str) -> bool:
    file = Path(path)
    return file.suffix.lower() in SUFFIXES and file.name[0] != "."


def _open_array(path: Path) -> np.ndarray:
    """The array of a .npy file as a memory map. OSError if the file is missing or broken."""
    if not path.is_file():
        raise OSError(f"there is no {path}: CIFAR-10-C is a folder of labels.npy and one .npy file per corruption")
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise OSError(f"{path} is no whole .npy file: {error}") from error
