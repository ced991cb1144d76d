"""WebDataset shards: tar files -> samples, the photo of each sample, and the members of its augmented copy.

Files of one sample stand side by side and share their name up to the first dot of its last part: ``000.cls``,
``000.depth.png`` and ``000.jpg`` are the members cls, depth.png and jpg of sample 000.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import IO, NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS

from .folders import is_utf8, readable

#: The endings of members that may be photos.
PICTURES = (*IMG_EXTENSIONS, ".gif", ".avif", ".jp2")
#: First words of members that are pictures of data, not photos, such as depth.png.
DATA_WORDS = {
    "alpha", "depth", "disparity", "edge", "edges", "flow", "instance", "label", "labels", "mask", "masks", "matte",
    "normal", "normals", "seg", "segmentation", "semantic",
}  # fmt: skip


class DamagedShard(OSError):
    """A tar file that is damaged or incomplete."""


class Sample(NamedTuple):
    """One sample: its key, its members in their order, and the name of the member that is the photo, if it has one."""

    key: str
    members: list[tuple[str, bytes]]
    photo: str | None


def read_samples(file: IO[bytes], name: str, member: str | None = None) -> Iterator[Sample]:
    """The samples in a tar file. Members that are no files, and files without an ending, are left out.

    Args:
        name: what error messages call the file.
        member: which member is the photo (see ``find_photo``).

    Raises:
        ValueError: a member's name is unsafe, a sample is in two places or has a member twice, or it is not clear
            which member is the photo.
        DamagedShard: the file is damaged.
    """
    seen: set[str] = set()
    key = ""
    members: list[tuple[str, bytes]] = []
    try:
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            for entry in tar:
                if not entry.isfile():
                    continue
                check_name(entry.name, name)
                found, suffix = split_name(entry.name)
                if found is None:
                    continue
                if found != key:
                    if members:
                        yield _sample(key, members, name, member)
                    if found in seen:
                        raise ValueError(f"{name}: the members of sample {found} must stand side by side. Sort the tar")
                    seen.add(found)
                    key, members = found, []
                if suffix in dict(members):
                    raise ValueError(f"{name} holds {entry.name} twice")
                content = tar.extractfile(entry)
                members.append((suffix, content.read() if content else b""))
    except (tarfile.TarError, EOFError) as error:
        raise DamagedShard(f"{name} is damaged or incomplete: {error}") from error
    if members:
        yield _sample(key, members, name, member)


def check_name(name: str, tar: str) -> None:
    """ValueError for a name that would lead out of the folder into which the tar is unpacked."""
    parts = re.split(r"[/\\]", name)
    if parts[0] == "" or ".." in parts or re.match("[A-Za-z]:", name) or "\\" in name or not is_utf8(name):
        raise ValueError(f"names in shards must be relative, without '..', and UTF-8. Got {readable(name)!r} in {tar}")


def split_name(name: str) -> tuple[str | None, str]:
    """A file's sample and member, ("a/000", "depth.png") for "a/000.depth.png"; (None, "") without an ending."""
    match = re.fullmatch(r"((?:.*/|)[^./]+)[.]([^/]+)", name, re.DOTALL)
    return (match[1], match[2]) if match else (None, "")


def _sample(key: str, members: list[tuple[str, bytes]], name: str, member: str | None) -> Sample:
    return Sample(key, members, find_photo([suffix for suffix, _ in members], f"{name}, sample {key}", member))


def find_photo(names: Sequence[str], where: str, member: str | None = None) -> str | None:
    """The member that is the photo, or None if there is none.

    It is the only picture without a word before its ending: jpg beside depth.png, or 05.jpg.

    Args:
        where: for error messages.
        member: the photo's name or a pattern for it, such as rgb.png or *.jpg.

    Raises:
        ValueError: several members may be the photo, or one that has a word before its ending.
    """
    if member is not None:
        clear, doubtful = [name for name in names if fnmatchcase(name, member)], []
    else:
        pictures = [name for name in names if f".{name}".lower().endswith(PICTURES)]
        words = {name: [part for part in name.split(".")[:-1] if re.search("[^0-9]", part)] for name in pictures}
        clear = [name for name in pictures if not words[name]]
        doubtful = [name for name in pictures if words[name] and not DATA_WORDS & set(words[name])]
    if len(clear) == 1 or not clear + doubtful:
        return clear[0] if clear else None
    found = ", ".join(clear or doubtful)
    raise ValueError(
        f"it must be clear which member is the photo: pass --member, such as 'jpg' or '*.jpg'. Got {found} in {where}"
    )


def members_with_copies(sample: Sample, copies: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    """A sample's members, the photo replaced by its copies. With several, jpg becomes 0.jpg, 1.jpg, ..."""
    for name, data in sample.members:
        if name != sample.photo:
            yield name, data
            continue
        stem, _, ending = name.rpartition(".")
        for number, copy in enumerate(copies):
            yield (name if len(copies) == 1 else f"{stem}.{number}.{ending}".lstrip(".")), copy


def write_samples(file: IO[bytes], samples: Iterable[tuple[str, Iterable[tuple[str, bytes]]]]) -> None:
    """Write (key, members) as a tar file. Equal samples give equal bytes."""
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for key, members in samples:
            for name, data in members:
                entry = tarfile.TarInfo(f"{key}.{name}")
                entry.size, entry.mode = len(data), 0o644
                tar.addfile(entry, io.BytesIO(data))
