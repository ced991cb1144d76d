"""Files with pictures -> upright RGB: the one reader, for folders, shards, commands and training scripts.

    path or bytes --load_image--> PIL image, RGB     PIL image as others opened it --upright_rgb--> the same

Transparent parts become white, 16-bit pixels are scaled, and an animation gives its first picture. Whatever is wrong
with a file is an OSError that names it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import PIL.Image

from .arguments import check_instance, counted

#: The longest side of a picture that is read, in pixels. Pillow limits the product of the sides only, and needs much
#: memory for each row: a file of 74 bytes that declares 1 x 49,000,000 pixels would take 1.35 GB.
MAX_SIDE = 32_768
#: The most pixels of a picture that is read: 537 MB as RGB. Pillow's own limit is the same.
MAX_PIXELS = 178_956_970
#: How names of pictures end whose formats are not read: those of phones, of cameras, of drawing programs.
UNREAD = (".heic", ".heif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".psd", ".svg")
#: Pillow's names of the formats that are read. EPS is left out on purpose: it would start Ghostscript.
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
#: The formats whose pictures of mode I hold unsigned integers of 16 bits.
SIXTEEN_BITS_AS_I = ("PNG", "PPM")
#: Modes whose colours are multiplied by their opacity, and the modes in which they are not.
PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}
#: The EXIF tag of the orientation, and the turn that makes each orientation upright.
ORIENTATION = 0x0112
TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


def load_image(file: str | Path | bytes, name: str | None = None) -> PIL.Image.Image:
    """A picture from a path or from its bytes, upright and RGB.

    Args:
        file: a path, or the bytes of a file.
        name: what error messages call it. None: its path, or "the picture".

    Raises:
        OSError: the file is missing, damaged or no picture; it has more than ``MAX_PIXELS`` or a side above
            ``MAX_SIDE``; or its pixels are numbers whose range is not known (see ``to_rgb``). The message holds the
            name.

    Example:
        >>> from torchvision.datasets import ImageFolder
        >>> data = ImageFolder("photos/train", loader=load_image)  # doctest: +SKIP
    """
    check_instance("file", file, (str, Path, bytes))
    opened = io.BytesIO(file) if isinstance(file, bytes) else file
    name = name or ("the picture" if isinstance(file, bytes) else str(file))
    try:
        with PIL.Image.open(opened, formats=formats()) as picture:  # reads the header only
            return upright_rgb(picture)
    except FileNotFoundError as error:
        raise OSError(f"there is no file {name}") from error
    except IsADirectoryError as error:
        raise OSError(f"{name} is a folder. It must be a picture") from error
    except PIL.Image.DecompressionBombError:
        raise OSError(f"{name} is too large: a picture must have at most {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # decoders raise errors of many kinds
        reason = str(error).replace(repr(opened), repr(name))
        raise OSError(f"{name} is no whole picture: {type(error).__name__}: {reason}") from error


def warn_of_unread(folder: str | Path, names: Sequence[str]) -> None:
    """Say that the pictures among these files whose format is not read are left out, if there are any."""
    unread = [name for name in names if is_unread(name)]
    if unread:
        number = counted(len(unread), "picture")
        text = f"{folder} has {number} whose format is not read, such as {unread[0]}: left out. Convert to JPEG or PNG"
        warnings.warn(text, stacklevel=2)


def is_unread(name: str) -> bool:
    """Whether a file's name is that of a picture whose format is not read, and not hidden."""
    return name.lower().endswith(UNREAD) and not Path(name).name.startswith(".")


@cache
def formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this Pillow reads."""
    PIL.Image.init()
    return tuple(name for name in FORMATS if name in PIL.Image.OPEN)


def upright_rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    """A picture as Pillow opened it, turned upright by its EXIF orientation, and converted by ``to_rgb``.

    For pictures that others open, such as the rows of a Hub data set.

    Raises:
        ValueError: a side is longer than ``MAX_SIDE``, or as for ``to_rgb``. Also whatever Pillow raises for damaged
            data.
    """
    check_instance("picture", picture, PIL.Image.Image)
    check_sides(picture)
    picture.load()
    rgb = to_rgb(picture)
    try:
        turn = TURNS.get(picture.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing about the orientation, and the pixels are whole
        turn = None
    return rgb if turn is None else rgb.transpose(turn)


def to_rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    """A picture of any mode as RGB: transparent parts white, 16 bits and floats in [0, 1] scaled to 8 bits.

    Raises:
        ValueError: the pixels are floats outside [0, 1] or integers of 32 bits, whose range is not known.
    """
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _from_wide(picture)
    if picture.mode in PREMULTIPLIED:
        picture = picture.convert(PREMULTIPLIED[picture.mode])
    if "A" in picture.getbands() or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        return PIL.Image.alpha_composite(PIL.Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return picture.convert("RGB")


def _from_wide(picture: PIL.Image.Image) -> PIL.Image.Image:
    """A grey picture of 16-bit integers or floats as RGB."""
    values = np.asarray(picture)
    if picture.mode == "F":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # also for NaN
            raise ValueError(f"floating point pixels must be in [0, 1]. Got values in [{low:g}, {high:g}]")
        grey = values * 255
    elif picture.mode == "I" and picture.format not in SIXTEEN_BITS_AS_I:
        raise ValueError("integer pixels must have 8 or 16 bits, unsigned. Got 32 bits, or 16 with a sign")
    else:
        grey = values / 257  # 65535 becomes 255
    pixels = grey.round().astype(np.uint8)
    if isinstance(clear := picture.info.get("transparency"), int):
        pixels[values == clear] = 255
    return PIL.Image.fromarray(pixels).convert("RGB")


def check_sides(picture: PIL.Image.Image) -> None:
    """ValueError for a side above ``MAX_SIDE``, by what the file declares, before its pixels are read."""
    if max(picture.size) > MAX_SIDE:
        width, height = picture.size
        raise ValueError(f"a picture's sides must have at most {MAX_SIDE} pixels. Got {width} x {height}")
