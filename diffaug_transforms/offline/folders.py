"""The pictures under a folder, and whether their names can be used."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from ..pictures import is_unread

#: A data set's name on the Hub, and its configuration.
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
#: A folder, as the file system knows it: its device and its number there.
Identity = tuple[int, int]


def find_pictures(source: Path, target: Path | None = None) -> tuple[list[Path], list[str]]:
    """All pictures under a folder, as paths relative to it, sorted; links to folders are followed, but in no circle.

    Hidden files and folders, whose names begin with a dot, are left out.

    Args:
        target: where copies will go.

    Returns:
        The paths, and one line for each picture or folder that cannot be used, with the reason: a name that is no
        UTF-8, a folder that may not be read.

    Raises:
        OSError: ``source`` is no folder with pictures. ValueError: one of the folders lies inside the other.
    """
    if not source.is_dir():
        raise OSError(f"SRC must be a folder of images. Got {source}")
    if target is not None:
        check_apart(source, target)
    paths, skipped = [], []
    for path, fault in _walk(source, (), target.resolve() if target is not None else None):
        relative = path.relative_to(source)
        if not fault and not is_utf8(str(relative)):
            fault = "its name is no UTF-8"
        if fault:
            skipped.append(f"skipped: {readable(str(path))}: {fault}")
        else:
            paths.append(relative)
    if not paths and not skipped:
        raise OSError(f"there are no images under {source} (looked for {', '.join(IMG_EXTENSIONS)})")
    return sorted(paths), sorted(skipped)


def first_pictures_in(source: Path, number: int) -> list[Path]:
    """The first pictures under a folder, without a look at the others."""
    return list(islice((path for path, fault in _walk(source, (), None) if not fault), number))


def is_image_folder(source: str | Path, target: str | Path | None = None) -> bool:
    """Whether a source is a folder of pictures, not of shards, and no id of a Hub data set.

    Raises:
        OSError: it is neither. ValueError: source and target are folders, and one lies inside the other.
    """
    path = Path(source)
    if path.is_dir() and target is not None:
        check_apart(path, Path(target))
    if path.exists():
        return find_kind(path) == "folder"
    if HUB_ID.fullmatch(str(source)):
        return False
    raise OSError(f"SRC must be a folder of images, .parquet or .tar files, or a Hub data set's id. Got {source}")


def find_kind(source: Path) -> str:
    """What a folder or file holds: "table" (Parquet), "shards" (tar), or "folder" (pictures).

    Raises:
        OSError: none of them.
    """
    if source.is_file():
        return kind_of([source.name], source)
    names, has_links = [], False
    for _, folders, files in os.walk(source):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += files
    if not any(map(is_picture, names)):  # they may stand behind links
        has_links = any(path.is_symlink() and path.is_dir() for path in source.rglob("*"))
    return kind_of([*names, "linked.png"] if has_links else names, source)


def kind_of(names: Iterable[str], source: Path | str) -> str:
    """The kind of most files of a source. A warning says what is left out. OSError if there is none."""
    tests = {"table": is_parquet, "shards": is_tar, "folder": is_picture}
    counts = {kind: sum(map(test, names)) for kind, test in tests.items()}
    kind = max(counts, key=lambda kind: counts[kind])
    if not counts[kind]:
        raise OSError(f"there are no images, .parquet or .tar files under {source}")
    words = {"table": ".parquet files", "shards": ".tar files", "folder": "images"}
    left_out = [f"{counts[other]} {words[other]}" for other in counts if other != kind and counts[other]]
    if left_out:
        warnings.warn(f"{source} holds mostly {words[kind]}: {' and '.join(left_out)} are left out", stacklevel=1)
    return kind


def is_parquet(name: str) -> bool:
    """Whether a file's name is that of a Parquet file, and not hidden."""
    return name.lower().endswith(".parquet") and not name.startswith(".")


def is_tar(name: str) -> bool:
    """Whether a file's name is that of a tar file, and not hidden."""
    return name.lower().endswith(".tar") and not name.startswith(".")


def check_apart(source: Path, target: Path) -> None:
    """ValueError if one of the folders lies inside the other."""
    inside, outside = source.resolve(), target.resolve()
    if outside.is_relative_to(inside):
        raise ValueError(f"DST must not lie inside SRC. Got {target}")
    if inside.is_relative_to(outside):
        raise ValueError(f"SRC must not lie inside DST. Got {source}")


def is_picture(name: str) -> bool:
    """Whether a file's name is that of a picture, and not hidden."""
    return name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(".")


def is_utf8(name: str) -> bool:
    """Whether a file's name is UTF-8. Python shows other bytes as lone surrogates."""
    try:
        name.encode()
        return True
    except UnicodeEncodeError:
        return False


def readable(name: str) -> str:
    r"""A file's name for people, also if it is no UTF-8: ``caf\xe9.jpg``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _walk(folder: Path, above: tuple[Identity, ...], target: Path | None) -> Iterator[tuple[Path, str]]:
    """(path, fault) of each picture; fault is empty if there is none. ``above`` holds the folders around this one."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        status = os.stat(folder)
    except OSError as error:
        yield folder, f"the folder cannot be read: {error.strerror}"
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError as error:  # such as a link to itself
            is_folder, is_file = False, False
            if is_picture(entry.name):
                yield Path(entry.path), f"it cannot be read: {error.strerror}"
        if is_folder:
            inner = Path(entry.path)
            if target is not None and entry.is_symlink() and target.is_relative_to(inner.resolve()):
                raise ValueError(f"DST must not lie inside SRC. Got {target}, which {inner} leads to")
            yield from _walk(inner, (*above, here), target)
        elif is_file and is_picture(entry.name):
            yield Path(entry.path), ""
        elif is_file and is_unread(entry.name):
            yield Path(entry.path), "its format is not read here. Convert it to JPEG or PNG"
