"""Pictures that strangers send: stricter than ``pictures.load_image``.

    file --read_picture--> RGB, upright --fit_picture--> uint8 (3, size, size)

`enlarge` makes small images large enough to look at.
"""

from __future__ import annotations

from pathlib import Path

import PIL.Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ..figures import fit_to_network
from ..pictures import MAX_SIDE, check_sides, upright_rgb

#: The largest file that is read, in bytes.
MAX_BYTES = 20 * 2**20
#: The largest picture that is decoded. 50 megapixels need 150 MB of memory.
MAX_PIXELS = 50_000_000
#: Pillow's names of the formats that are read. Others are left out on purpose: EPS would start Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
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
        raise ValueError(f"a picture's file must have at most {MAX_BYTES / 2**20:.0f} MiB. Got {size / 2**20:.1f} MiB")
    try:
        with PIL.Image.open(path, formats=FORMATS) as file:
            width, height = file.size
            small = width * height <= MAX_PIXELS and max(width, height) <= MAX_SIDE
            upright = upright_rgb(file) if small else None
    except PIL.Image.DecompressionBombError:
        raise ValueError(f"{PIXEL_LIMIT}. Got far more") from None
    except PIL.UnidentifiedImageError:
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise ValueError(f"a picture must be a {known} file. Got {path.name}, which is none of these") from None
    except Exception as error:  # decoders raise errors of many kinds
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    if upright is None:
        check_sides(file)
        raise ValueError(f"{PIXEL_LIMIT}. Got {width} x {height}")
    return upright


def fit_picture(image: PIL.Image.Image, size: int) -> Tensor:
    """The central square, resized: uint8 (3, size, size)."""
    # fit_to_network resizes first: a picture 1 pixel high and a million pixels wide would become huge.
    return fit_to_network(F.center_crop(image, [min(image.size)]), size)


def enlarge(image: Tensor, side: int = 256) -> PIL.Image.Image:
    """An image (3, H, W), uint8 or in [0, 1], with its pixels repeated until it is about ``side`` wide."""
    factor = max(1, side // image.shape[-1])
    picture = F.to_pil_image(image)
    return picture.resize((factor * picture.width, factor * picture.height), PIL.Image.Resampling.NEAREST)
