"""Hostile pictures: damaged files of all formats, and files that declare or unpack to far more than they hold.

A picture is read, or an OSError names it. Anything else is lost: another error, much memory, much time, a dead process.
"""

from __future__ import annotations

import io
import json
import random
import resource
import struct
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from diffaug_transforms.pictures import load_image

from ..harness.records import Record
from .children import last_line, run_to_end
from .settings import Settings, Tally

#: The most that one file may take: bytes of the process's memory beside what it had, and seconds.
MEMORY, SECONDS = 2**30, 5.0
#: Pillow's names of formats, and modes in which each is written.
KINDS = {
    "JPEG": ("RGB", "L", "CMYK"), "PNG": ("RGB", "RGBA", "P", "1", "I;16"), "GIF": ("P",), "WEBP": ("RGB", "RGBA"),
    "TIFF": ("RGB", "CMYK", "F"), "BMP": ("RGB", "P"), "PPM": ("RGB", "L"), "TGA": ("RGB",), "ICO": ("RGBA",),
}  # fmt: skip


def measure(settings: Settings) -> Iterator[Record]:
    whole = [write(kind, mode) for kind, modes in KINDS.items() for mode in modes]
    choose = settings.random("damaged pictures")
    number = settings.choose(3000, 200)
    yield from read_all(settings, "pictures; damaged", [damage(choose.choice(whole), choose) for _ in range(number)])
    yield from read_all(settings, "pictures; declare or unpack to too much", bombs(), must_fail=True)


def read_all(settings: Settings, method: str, files: list[bytes], must_fail: bool = False) -> Iterator[Record]:
    """Read files in a process of its own, with little memory. If that dies, the file it was at is lost."""
    tally, result, log = Tally("pictures", method), settings.folder / "result.json", settings.folder / "log"
    code = run_to_end(lambda: read_in_child(files, must_fail, result), log)
    found: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
    faults = found.get("faults", [])
    if code:
        faults = [*faults, f"the process ended with code {code}: {last_line(log)}"]
    tally.add("", len(files) - len(faults))
    for fault in faults:
        tally.add(fault)
    yield from tally.records(read=found.get("read"), peak_bytes=found.get("peak"), slowest_seconds=found.get("slowest"))


def read_in_child(files: list[bytes], must_fail: bool, result: Path) -> None:
    warnings.simplefilter("ignore")
    limit = 1024 * int(Path("/proc/self/status").read_text().split("VmSize:")[1].split()[0]) + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = peak()
    faults, read, slowest = [], 0, 0.0
    for data in files:
        began = time.monotonic()
        fault = read_one(data, must_fail)
        read += fault is None
        slowest = max(slowest, time.monotonic() - began)
        if time.monotonic() - began > SECONDS:
            fault = f"it took {time.monotonic() - began:.1f} s"
        if fault:
            faults.append(f"{data[:24]!r}: {fault}")
    more: Record = {"read": read, "peak": peak() - before, "slowest": round(slowest, 3)}
    result.write_text(json.dumps({"faults": faults, **more}))


def read_one(data: bytes, must_fail: bool) -> str | None:
    """None if the picture is read, else what is wrong, "" if an OSError names it."""
    try:
        load_image(data, "the name")
    except OSError as error:
        return "" if str(error).startswith("the name ") else f"the error has no name: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "it was read" if must_fail else None


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def write(kind: str, mode: str) -> bytes:
    """A small picture of noise, with EXIF if the format has it."""
    noise = np.random.default_rng(0)
    if mode == "I;16":
        picture = PIL.Image.fromarray(noise.integers(0, 65536, (30, 40), np.uint16))
    elif mode == "F":
        picture = PIL.Image.fromarray(noise.random((30, 40), np.float32))
    else:
        picture = PIL.Image.fromarray(noise.integers(0, 256, (30, 40, 3), np.uint8)).convert(mode)
    file, options = io.BytesIO(), {}
    if kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        options = {"exif": exif}
    picture.save(file, kind, **options)
    return file.getvalue()


def damage(whole: bytes, choose: random.Random) -> bytes:
    """Change some bytes, most of them near the beginning. Cut a third of the files short."""
    data = bytearray(whole)
    for _ in range(choose.choice([1, 2, 5, 20])):
        data[choose.randrange(min(len(data), choose.choice([64, 400, len(data)])))] = choose.randrange(256)
    return bytes(data[: choose.randrange(len(data))] if choose.random() < 1 / 3 else data)


def bombs() -> list[bytes]:
    """Small files of many formats that declare hundreds of millions of pixels, or unpack to 256 MiB of text."""
    sides = [(20_000, 10_000), (65_535, 65_535), (1, 49_000_000), (49_000_000, 1), (2**31 - 1, 2**31 - 1)]
    files = [png(width, height) for width, height in sides]
    files += [
        png(20_000, 10_000, compressed(20_000 * 10_000 // 8)),
        png(8, 8, chunk=text_bomb()),
        png(8, 8, chunk=profile_bomb()),
    ]
    files += [b"P6 %d %d 255\n" % side + bytes(99) for side in sides]
    for width, height in [(65_535, 65_535), (40_000, 9_000)]:
        files.append(gif(width, height))
        files.append(jpeg(min(width, 65_500), min(height, 65_500)))
        files.append(bytes([0, 0, 2]) + bytes(9) + struct.pack("<HHBB", width, height, 24, 0) + bytes(99))  # TGA
        files.append(bmp(width, height))
        files.append(tiff(width, height))
    return files


def png(width: int, height: int, data: bytes = b"", chunk: bytes = b"") -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    body = png_chunk(b"IDAT", data or zlib.compress(bytes(99)))
    return b"\x89PNG\r\n\x1a\n" + header + chunk + body + png_chunk(b"IEND", b"")


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def compressed(size: int) -> bytes:
    """Zeros that take a thousandth of their size."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(-(-size // 2**20))) + packer.flush()


def text_bomb() -> bytes:
    return png_chunk(b"zTXt", b"name\0\0" + compressed(2**28))


def profile_bomb() -> bytes:
    return png_chunk(b"iCCP", b"name\0\0" + compressed(2**28))


def jpeg(width: int, height: int) -> bytes:
    """A real JPEG whose header declares another size."""
    data = bytearray(write("JPEG", "RGB"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def gif(width: int, height: int) -> bytes:
    screen, frame = struct.pack("<HHBBB", width, height, 0, 0, 0), struct.pack("<HHHHB", 0, 0, width, height, 0)
    return b"GIF89a" + screen + b"," + frame + b"\x08" + bytes(99)


def bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header + bytes(99)


def tiff(width: int, height: int) -> bytes:
    """One strip of grey pixels, of which hardly any are there."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 200), (277, 1), (278, height), (279, 99)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)).ljust(200, b"\0") + bytes(99)
