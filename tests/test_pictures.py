"""The one reader of files: upright, RGB, right values for unusual pixels, and one kind of error."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from diffaug_transforms import images
from diffaug_transforms.pictures import MAX_PIXELS, load_image, upright_rgb

RAMP = np.tile(np.linspace(0, 1, 256), (4, 1))
#: The upper left corner of a 3 x 2 picture is red, the lower right one blue.
CORNERS = np.zeros((2, 3, 3), np.uint8)
CORNERS[0, 0], CORNERS[1, 2] = (255, 0, 0), (0, 0, 255)


def encoded(picture: PIL.Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def with_orientation(number: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[0x0112] = number
    return exif


def test_old_imports_work():
    assert images.load_image is load_image
    assert images.MAX_SIDE == 32_768


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "red", "size"),
    [
        (1, (0, 0), (3, 2)), (2, (2, 0), (3, 2)), (3, (2, 1), (3, 2)), (4, (0, 1), (3, 2)),
        (5, (0, 0), (2, 3)), (6, (1, 0), (2, 3)), (7, (1, 2), (2, 3)), (8, (0, 2), (2, 3)),
    ],
)  # fmt: skip
def test_pictures_stand_upright(kind, orientation, red, size):
    """Where EXIF's table puts the stored upper left corner."""
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(PIL.Image.fromarray(CORNERS), kind, exif=with_orientation(orientation), **options)
    picture = load_image(data)
    assert picture.size == size
    assert picture.getpixel(red) == (255, 0, 0)
    with PIL.Image.open(io.BytesIO(data)) as opened:
        assert upright_rgb(opened).tobytes() == picture.tobytes()


def test_damaged_exif_does_not_lose_the_picture():
    data = encoded(PIL.Image.fromarray(CORNERS), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert load_image(data).tobytes() == CORNERS.tobytes()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled(kind):
    values = (RAMP * 65535).round().astype(np.uint16)
    pixels = np.asarray(load_image(encoded(PIL.Image.fromarray(values), kind)))
    assert pixels.shape == (4, 256, 3)
    assert pixels.mean() == pytest.approx(127.5, abs=0.01)
    assert (pixels[0, 0].tolist(), pixels[0, -1].tolist()) == ([0] * 3, [255] * 3)


def test_floats_in_0_to_1_are_scaled_and_others_refused():
    def tiff(values: np.ndarray) -> bytes:
        return encoded(PIL.Image.fromarray(values.astype(np.float32)), "TIFF")

    assert np.asarray(load_image(tiff(RAMP))).mean() == pytest.approx(127.5, abs=0.01)
    for values, shown in ((RAMP * 255, "[0, 255]"), (RAMP - 0.5, "[-0.5, 0.5]"), (RAMP * np.nan, "[nan, nan]")):
        with pytest.raises(
            OSError, match="the picture is no whole picture.*floating point pixels must be in"
        ) as caught:
            load_image(tiff(values))
        assert shown in str(caught.value)


def test_32_bit_integers_are_refused():
    data = encoded(PIL.Image.fromarray((RAMP * 100_000).astype(np.int32)), "TIFF")
    with pytest.raises(OSError, match="integer pixels must have 8 or 16 bits, unsigned. Got 32 bits"):
        load_image(data, "x.tif")


def transparent(mode: str) -> bytes:
    """Two pixels: opaque black or red, and one that is fully transparent."""
    rgba = PIL.Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    rgba.putpixel((1, 0), (90, 90, 90, 0))
    if mode in ("P", "L", "RGB", "1", "I;16"):
        picture = PIL.Image.new("L" if mode == "P" else mode, (2, 1), 0)
        picture.putpixel((1, 0), {"RGB": (9, 9, 9), "1": 255, "I;16": 900}.get(mode, 9))
        mark = {"RGB": (9, 9, 9), "1": 255, "I;16": 900}.get(mode, 9)
        if mode == "P":
            picture = picture.convert("P")
            mark = picture.getpixel((1, 0))
        return encoded(picture, "PNG", transparency=mark)
    return encoded(rgba.convert(mode), "PNG")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "I;16"])
def test_transparent_parts_become_white(mode):
    picture = load_image(transparent(mode))
    assert picture.getpixel((0, 0)) == (0, 0, 0)
    assert picture.getpixel((1, 0)) == (255, 255, 255)


def test_half_transparent_red_on_white():
    picture = PIL.Image.new("RGBA", (1, 1), (255, 0, 0, 128))
    assert load_image(encoded(picture, "PNG")).getpixel((0, 0)) == (255, 127, 127)


def test_unusual_modes_and_animations():
    red = PIL.Image.new("RGB", (8, 8), (200, 30, 30))
    for kind, mode in (("TIFF", "CMYK"), ("JPEG", "CMYK"), ("PNG", "1"), ("GIF", "P"), ("TIFF", "LAB"), ("JPEG", "L")):
        picture = red if mode == "LAB" else red.convert(mode)
        assert load_image(encoded(picture, kind)).size == (8, 8)
    assert load_image(encoded(red.convert("CMYK"), "JPEG")).getpixel((4, 4)) == pytest.approx((200, 30, 30), abs=6)
    blue = PIL.Image.new("RGB", (8, 8), (30, 30, 200))
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "MPO"):
        data = encoded(red, kind, save_all=True, append_images=[blue])
        assert load_image(data).getpixel((4, 4)) == pytest.approx((200, 30, 30), abs=12)


def test_bombs_are_refused_in_one_line(tmp_path):
    path = tmp_path / "large.png"
    PIL.Image.new("1", (20_000, 10_000)).save(path)
    with pytest.raises(OSError, match=f"large.png is too large: a picture must have at most {MAX_PIXELS:,} pixels"):
        load_image(path)


def test_no_program_is_started_for_a_file(tmp_path):
    (tmp_path / "x.jpg").write_bytes(encoded(PIL.Image.new("RGB", (8, 8)), "EPS"))
    with pytest.raises(OSError, match="x.jpg is no whole picture: UnidentifiedImageError"):
        load_image(tmp_path / "x.jpg")


DAMAGE = """
import random, resource, sys, warnings
from pathlib import Path
from diffaug_transforms.pictures import load_image
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
warnings.simplefilter("ignore")
whole = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
draw, read = random.Random(0), 0
for _ in range(int(sys.argv[2])):
    data = bytearray(draw.choice(whole))
    for _ in range(draw.choice([1, 2, 5, 20])):
        data[draw.randrange(min(len(data), draw.choice([64, 400, 10**6])))] = draw.randrange(256)
    if draw.random() < 0.3:
        data = data[: draw.randrange(len(data))]
    try:
        load_image(bytes(data), "x")
        read += 1
    except OSError as error:
        assert "x is" in str(error), error
print(read)
"""


def test_every_damaged_file_is_an_oserror(tmp_path):
    """3,000 files with changed bytes, a third of them cut, in at most 6 GiB of memory."""
    grey = np.random.default_rng(0).integers(0, 65536, (30, 40), np.uint16)
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))
    kinds = {"JPEG": ("RGB", "L", "CMYK"), "PNG": ("RGB", "RGBA", "P", "1"), "GIF": ("P",), "WEBP": ("RGB", "RGBA")}
    for kind, modes in {**kinds, "TIFF": ("RGB", "CMYK"), "BMP": ("RGB", "P")}.items():
        for mode in modes:
            exif = {} if kind in ("GIF", "BMP") else {"exif": with_orientation(6)}
            (tmp_path / f"{kind}{mode}").write_bytes(encoded(picture.convert(mode), kind, **exif))
    (tmp_path / "wide").write_bytes(encoded(PIL.Image.fromarray(grey), "PNG"))
    command = [sys.executable, "-c", DAMAGE, str(tmp_path), "3000"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parent.parent)
    assert result.returncode == 0, result.stderr
    assert 200 < int(result.stdout) < 2000  # some changes do no harm


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(OSError, match="is a folder. It must be a picture"):
        load_image(tmp_path)
