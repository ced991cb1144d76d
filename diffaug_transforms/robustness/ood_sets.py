"""Images out of distribution, from a folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torchvision.transforms import v2

from .imagenet_sets import SUFFIXES, is_image, read_file
from .shift_sets import ShiftSet


def read_image_folder(folder: str | Path, size: int, *, resize: int | None = None) -> ShiftSet:
    """All images of a folder and of those in it, sorted by path, as a set of which no class is a right one.

    Published OOD sets differ in how deep they are (Textures ``images/banded/*.jpg``, SVHN as files, one folder for
    each class as torchvision's ImageFolder wants); their classes do not matter here. ``set[i]`` is uint8
    (3, size, size), the set's name is the folder's.

    Args:
        folder: of .jpg, .jpeg, .png or .webp files; hidden ones are left out.
        size: the classifier's, in pixels: of the square that is cut from the centre.
        resize: the shorter side before the cut, bilinear; None: ``size``. OpenOOD, and the in-distribution images of
            ``read_imagenet_set``, take 256 for 224 and 32 for 32.

    Raises:
        OSError: the folder is missing or holds no images, or an image that is read is broken.
        ValueError: a size is not a positive integer, or ``resize`` is below ``size``.

    Example:
        >>> data = read_image_folder("data/textures", 224, resize=256)  # doctest: +SKIP
        >>> data[0].shape  # doctest: +SKIP
        torch.Size([3, 224, 224])
    """
    resize = size if resize is None else resize
    for name, value in (("size", size), ("resize", resize)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1. Got {value!r}")
    if resize < size:
        raise ValueError(f"resize must be at least the size, {size}. Got {resize}")
    folder = Path(folder)
    if not folder.is_dir():
        raise OSError(f"there is no folder {folder}")
    paths = sorted(path for path in folder.rglob("*") if is_image(path) and path.is_file())
    if not paths:
        raise OSError(f"there are no images ({', '.join(SUFFIXES)}) under {folder}")
    transform = v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(size)])
    return ShiftSet(folder.name, [()] * len(paths), None, partial(read_file, list(map(str, paths)), transform))
