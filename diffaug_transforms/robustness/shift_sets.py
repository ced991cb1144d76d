"""Test sets under covariate shift, read from their published files or corrupted on the fly."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from .corruptions import check_arguments, check_severity, corrupt

JPEG_QUALITY = 85


@dataclass(frozen=True)
class ShiftSet:
    """A map-style data set of images that are all of one size, and the rule by which predictions are judged.

    ``set[i]`` is image i, uint8 (3, H, W). It pickles where ``read`` does, so DataLoader workers can read it.

    Args:
        name: such as ``imagenet-r``.
        labels: the right classes of each image: one, or several of which any is right.
        classes: the only classes that a prediction is chosen from; None: all.
        read: from an image's index in the full set to the image.
        kept: the images' indices in the full set; None: all, in its order.

    Example:
        >>> from operator import getitem
        >>> images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
        >>> data = ShiftSet("mine", [(3,), (0, 8)], None, partial(getitem, images))
        >>> data.correct(torch.eye(10)[[3, 1]], [0, 1])
        tensor([ True, False])
    """

    name: str
    labels: list[tuple[int, ...]] = field(repr=False)
    classes: tuple[int, ...] | None = field(repr=False)
    read: Callable[[int], Tensor] = field(repr=False)
    kept: Sequence[int] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Tensor:
        return self.read(self.full_index(range(len(self))[index]))

    def full_index(self, index: int) -> int:
        """Image ``index``'s place in the full set, on which its draws depend."""
        return index if self.kept is None else self.kept[index]

    def correct(self, logits: Tensor, indices: Sequence[int]) -> Tensor:
        """Whether each image's most probable class, out of ``classes``, is a right one: bool (B,).

        Args:
            logits: (B, K) over all classes; for ImageNet's sets K is 1000.
            indices: (B,) the images' indices in this set.
        """
        right = [self.labels[int(i)] for i in indices]
        if logits.ndim != 2 or len(logits) != len(right):
            raise ValueError(f"logits must be (B, K), B the {len(right)} indices. Got shape {tuple(logits.shape)}")
        least = 1 + max([k for labels in right for k in labels] + list(self.classes or ()), default=-1)
        if logits.shape[1] < least:
            raise ValueError(f"{self.name} needs logits over at least {least} classes. Got {logits.shape[1]}")
        classes = torch.tensor(self.classes or range(logits.shape[1]), device=logits.device)
        predicted = classes[logits[:, classes].argmax(1)].tolist()
        found = [k in labels for k, labels in zip(predicted, right)]
        return torch.tensor(found, dtype=torch.bool, device=logits.device)

    def subset(self, number: int, seed: int = 0) -> ShiftSet:
        """The first ``number`` images of a random order, in that order: files are sorted, often by class.

        A smaller subset of the same seed is the start of a larger one. ValueError for less than 1.
        """
        if number < 1:
            raise ValueError(f"number must be at least 1. Got {number}")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:number].tolist()
        return replace(self, labels=[self.labels[i] for i in order], kept=[self.full_index(i) for i in order])


def read_cifar10_c(folder: str | Path, corruption: str, severity: int) -> ShiftSet:
    """CIFAR-10-C as published (zenodo.org/records/2535967; Hendrycks and Dietterich, arXiv 1903.12261).

    A file of 50,000 images holds 10,000 of severity 1, then the same of severity 2, and so on. Images are read from
    the disk one at a time.

    Args:
        folder: with ``labels.npy`` and one file for each corruption, such as ``fog.npy``.
        corruption: the name of a file: one of ``CORRUPTIONS``, or of the four that were kept for validation.
        severity: 1...5.

    Raises:
        OSError: a file is missing or unreadable. ValueError: a severity or an array that is not as above.

    Example:
        >>> data = read_cifar10_c("data/CIFAR-10-C", "fog", severity=5)  # doctest: +SKIP
        >>> len(data), data[0].shape  # doctest: +SKIP
        (10000, torch.Size([3, 32, 32]))
    """
    check_severity(severity)
    path, labels_path = Path(folder) / f"{corruption}.npy", Path(folder) / "labels.npy"
    images, labels = _open_array(path), _open_array(labels_path)
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or not len(images) or len(images) % 5:
        raise ValueError(f"{path} must be uint8 (5 N, 32, 32, 3). Got {images.dtype} {images.shape}")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise ValueError(f"{labels_path} must be {len(images)} integers. Got {labels.dtype} {labels.shape}")
    if labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"{labels_path} must hold classes in 0...9. Got {labels.min()}...{labels.max()}")
    number = len(images) // 5
    first = (severity - 1) * number
    right: list[tuple[int, ...]] = [(int(label),) for label in labels[first : first + number]]
    return ShiftSet("cifar10-c", right, None, partial(_read_row, str(path), first))


def corrupted(images: ShiftSet, corruption: str, severity: int, *, dataset: str, seed: int = 0) -> ShiftSet:
    """The same set with every image corrupted when it is read, by ``corrupt``.

    An image's draws depend on the seed and on its index in the full set, so ``subset`` before and after are the same.
    For ``imagenet-c`` the image is then coded as JPEG of quality 85, as the official ``make_imagenet_c.py`` saves it.

    Args:
        images: of CIFAR-10 for ``cifar10-c``; of ImageNet, at 224 pixels, for ``imagenet-c``.
        corruption, severity, dataset: as ``corrupt`` takes them. ``dataset`` becomes the set's name.
        seed: an int of at least 0.

    Raises:
        ValueError: an argument is not as above. Reading an image raises what ``corrupt`` does.

    Example:
        >>> from operator import getitem
        >>> images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
        >>> clean = ShiftSet("cifar10", [(3,), (8,)], None, partial(getitem, images))
        >>> corrupted(clean, "fog", 5, dataset="cifar10-c")[0].shape
        torch.Size([3, 32, 32])
    """
    check_arguments(corruption, severity, dataset)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0. Got {seed!r}")
    read = partial(_read_corrupted, images.read, corruption, severity, dataset, seed)
    return replace(images, name=dataset, read=read)


def _open_array(path: Path) -> np.ndarray:
    """A .npy file's array, of which only what is used is read. OSError for a missing or broken file."""
    if not path.is_file():
        raise OSError(f"there is no {path}: CIFAR-10-C is a folder of labels.npy and one .npy file per corruption")
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise OSError(f"{path} is no whole .npy file: {error}") from error


def _read_row(path: str, first: int, index: int) -> Tensor:
    # Opened anew: a memory map in a pickle would be the whole array.
    row = np.array(np.load(path, mmap_mode="r")[first + index])
    return torch.from_numpy(row).permute(2, 0, 1).contiguous()


def _read_corrupted(
    read: Callable[[int], Tensor], corruption: str, severity: int, dataset: str, seed: int, index: int
) -> Tensor:
    image = corrupt(read(index), corruption, severity, dataset=dataset, seed=seed, first=index)
    return _code_as_jpeg(image) if dataset == "imagenet-c" else image


def _code_as_jpeg(image: Tensor) -> Tensor:
    file = io.BytesIO()
    F.to_pil_image(image).save(file, "JPEG", quality=JPEG_QUALITY)
    return F.pil_to_tensor(PIL.Image.open(file))
