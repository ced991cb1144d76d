"""Pictures that strangers send: stricter than ``pictures.load_image``.

file --read_picture--> RGB, upright --fit_picture--> uint8 (3, size, size)

"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import PIL.Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ..figures import fit_to_network
from ..images import ASSETS
from ..pictures import MAX_SIDE, check_sides, upright_rgb

#: The largest file that is read, in bytes.
MAX_BYTES = 20 * 2**20
#: The largest picture that is decoded. 50 megapixels need 150 MB of memory.
MAX_PIXELS = 50_000_000
#: Pillow's names of the formats that are read. Others are left out on purpose: EPS would start Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SMALLER = "Choose a smaller picture"
PIXEL_LIMIT = f"a picture must have at most {MAX_PIXELS / 1e6:.0f} million pixels"


def read_picture(path: str | Path) -> PIL.Image.Image:
    """A file as an RGB image, turned upright by its EXIF orientation. An animation gives its first frame.

    Modes are converted as ``pictures.to_rgb`` does it.

    Raises:
        ValueError: the file is larger than ``MAX_BYTES``, has more than ``MAX_PIXELS`` or a side above
            ``pictures.MAX_SIDE``, is damaged, has none of the ``FORMATS``, or pixels whose range is not known. The size
            is read from the header, before anything is decoded.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(
            f"a picture's file must have at most {MAX_BYTES >> 20} MiB. Got {size / 2**20:.1f} MiB. {SMALLER}"
        )
    try:
        with PIL.Image.open(path, formats=FORMATS) as file:
            width, height = file.size
            small = width * height <= MAX_PIXELS and max(width, height) <= MAX_SIDE
            upright = upright_rgb(file) if small else None
    except PIL.Image.DecompressionBombError:
        raise ValueError(f"{PIXEL_LIMIT}. Got far more. {SMALLER}") from None
    except PIL.UnidentifiedImageError:
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise ValueError(
            f"a picture must be a {known} file. Got {path.name}, which is none of these. Save it as PNG"
        ) from None
    except Exception as error:  # decoders raise errors of many kinds
        raise ValueError(f"{path.name} cannot be read: {error}. Choose another picture") from error
    if upright is None:
        check_sides(file)
        raise ValueError(f"{PIXEL_LIMIT}. Got {width} x {height}. {SMALLER}")
    return upright


def fit_picture(image: PIL.Image.Image, size: int) -> Tensor:
    """The central square, resized: uint8 (3, size, size)."""
    # fit_to_network resizes first: a picture 1 pixel high and a million pixels wide would become huge.
    return fit_to_network(F.center_crop(image, [min(image.size)]), size)


@cache
def _classes_of_samples() -> dict[str, str]:
    """The class of each CIFAR-10 image that the package ships, by the digest of its file."""
    return {_digest(path): path.stem for path in (ASSETS / "samples").glob("*.png")}


def sample_class(path: str | Path) -> str | None:
    """What a file shows, if it is a copy of one of the package's CIFAR-10 images. Otherwise None."""
    return _classes_of_samples().get(_digest(Path(path)))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
