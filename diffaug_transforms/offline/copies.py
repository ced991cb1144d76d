"""One augmented copy of an image: its seeds, its draw, and its file."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import PIL.Image
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ..arguments import as_integer, check_callable, check_instance
from ..pictures import MAX_SIDE, load_image
from ..transforms import DeepAugment, DiffAug, Purify

#: Applied to each RGB picture before it is augmented, such as a Resize. An OSError in it skips the picture.
Prepare = Callable[[PIL.Image.Image], PIL.Image.Image] | None
#: Quality of JPEG and WebP files.
QUALITY = 95
#: Formats in which copies are written, by the endings of names. Pictures of other formats become PNG files.
FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF",
    ".ppm": "PPM", ".pgm": "PPM",
}  # fmt: skip


#: What makes copies. Purify draws nothing, so its copies of an image are one.
Augment = DiffAug | DeepAugment | Purify


class Seeds(NamedTuple):
    """The seed of a copy's draw, and the seed of its corrupted network (used by DeepAugment only)."""

    draw: int
    network: int


@dataclass(frozen=True)
class ResizeAndCrop:
    """Resize the shorter side, then cut out the centre: what ``diffaug augment`` does first.

    Attributes:
        resize, crop: in pixels. None leaves the step out.

    Raises:
        ValueError: the crop is larger than the resized picture. OSError, in the call: a picture is smaller than the
            crop, or too long to be resized.
    """

    resize: int | None = None
    crop: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("resize", self.resize), ("crop", self.crop)):
            if value is not None:
                as_integer(name, value, 1, MAX_SIDE)
        if self.resize is not None and self.crop is not None and self.crop > self.resize:
            raise ValueError(f"crop must be at most resize, {self.resize}. Got {self.crop}")

    def __call__(self, image: PIL.Image.Image) -> PIL.Image.Image:
        if self.resize is not None:
            longer = max(image.size) * self.resize // min(image.size)
            if longer > MAX_SIDE:
                size = f"{image.width} x {image.height}"
                raise OSError(f"resized to {self.resize} it would be {longer} pixels long. Its size is {size}")
            image = F.resize(image, [self.resize], antialias=True)
        if self.crop is None:
            return image
        if min(image.size) < self.crop:
            raise OSError(f"it is {image.width} x {image.height}, smaller than the crop of {self.crop} pixels")
        return F.center_crop(image, [self.crop])


def check_options(augment: Any, copies: Any, seed: Any, batch_size: Any, prepare: Any) -> None:
    """ValueError or TypeError unless these are as ``augment_folder`` and ``augment_dataset`` take them."""
    check_instance("augment", augment, (DiffAug, DeepAugment, Purify))
    as_integer("copies", copies, 1)
    if isinstance(augment, Purify):
        if copies > 1:
            raise ValueError(f"copies must be 1 for Purify, which makes the same copy each time. Got {copies}")
        if isinstance(augment.sigma, Tensor):
            raise ValueError("sigma must be one number for all images, or None. Got a tensor")
    as_integer("seed", seed, 0)
    as_integer("batch_size", batch_size, 1)
    check_callable("prepare", prepare, "a transform of PIL images")


def as_device(device: torch.device | str) -> torch.device:
    """A device that this machine computes on. ValueError for others."""
    try:
        torch.zeros(1, device=device).item()
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device must be a device of this machine, such as cpu or cuda. Got {device}") from error


def copy_seed(seed: int, image: str, copy: int) -> tuple[int, float]:
    """The seed (56 bits) of one copy's draw, and an independent uniform number in [0, 1).

    ``seed`` is the whole run's, ``image`` the path relative to the source folder, with forward slashes.
    """
    digest = hashlib.sha256(f"{seed}/{image}/{copy}".encode()).digest()
    return int.from_bytes(digest[:7], "big"), int.from_bytes(digest[7:13], "big") / 2**48


def copy_seeds(images: Iterable[str], copies: int, seed: int, redraw: float = 1.0) -> Iterator[list[Seeds]]:
    """The seeds of each image's copies.

    Only the list of images and the seed decide which copies share a corrupted network, so a run that resumes uses the
    same networks. Copies that share a network are neighbours in the list. Copy 0 of all images is one such sequence,
    copy 1 is another.

    Args:
        redraw: the probability that a copy does not share the network of the image before it.
    """
    networks: dict[int, int] = {}
    for image in images:
        seeds = []
        for copy in range(copies):
            draw, uniform = copy_seed(seed, image, copy)
            if copy not in networks or uniform < redraw:
                networks[copy] = draw
            seeds.append(Seeds(draw, networks[copy]))
        yield seeds


def numbered(name: str, copy: int, copies: int) -> str:
    """The name of a copy: NAME_0.jpg, NAME_1.jpg, ... for NAME.jpg if there are several."""
    path = PurePosixPath(name)
    return name if copies == 1 else f"{path.stem}_{copy}{path.suffix}"


def read_image(file: str | bytes, name: str, prepare: Prepare) -> Tensor | str:
    """An upright image, uint8 (3, H, W), or a line with its name that says why it cannot be read."""
    try:
        image = load_image(file, name)
    except OSError as error:
        return f"skipped: {error}"
    try:
        return F.pil_to_tensor(prepare(image) if prepare is not None else image)
    except OSError as error:
        return f"skipped: {name}: {error}"


def file_format(name: str, data: bytes | None = None) -> str:
    """Pillow's name of the format in which a picture's copies are written: by its name, or else by its bytes."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in FORMATS or data is None:
        return FORMATS.get(suffix, "PNG")
    try:
        with PIL.Image.open(io.BytesIO(data)) as file:
            kind = "JPEG" if file.format == "MPO" else file.format
    except Exception:  # the picture is skipped where it is read
        kind = None
    return kind if kind is not None and kind in FORMATS.values() else "PNG"


def encode_image(image: Tensor, kind: str) -> bytes:
    """The bytes of a file. ``kind`` is Pillow's name of its format, such as JPEG."""
    file = io.BytesIO()
    F.to_pil_image(image).save(file, kind, **({"quality": QUALITY} if kind in ("JPEG", "WEBP") else {}))
    return file.getvalue()
