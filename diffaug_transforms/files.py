"""Files that others wrote, JSON and tensors, read with care; and files of our own, written whole or not at all.

Nothing in a file is run. A damaged file gives an OSError that names it. A value that is out of range gives a
ValueError that names the file, the key and the value, before anything is built or allocated with it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import pickle
import platform
import re
import reprlib
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

#: The largest JSON file that is read, in bytes. The index of a network in many shards needs less than one MiB.
MAX_JSON_BYTES = 64 * 2**20
#: Key of a safetensors file's metadata: the checksum of its tensors.
CHECKSUM = "tensors_sha256"
#: The names of ``writing_file`` and ``writing``, and the age in seconds at which such a file belongs to nobody.
PART = re.compile(r"\.diffaug-(?P<place>[0-9a-f]{8})-(?P<pid>[0-9]+)-[0-9]+\.part")
PART_SECONDS = 24 * 3600
_numbers = itertools.count()
#: A test of one value, and the words that say what it asks for.
Rule = tuple[Callable[[Any], bool], str]


@contextmanager
def reading(path: Path, fault: str = "is damaged or incomplete") -> Iterator[None]:
    """Turn whatever a reader raises into an OSError that names the file."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{path} {fault}: {reason[:300]}") from error


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A folder to write into, whose files are moved to ``folder`` at the end: all, or after an error none.

    A process that is killed while it moves several files leaves a folder in which some are missing. It never leaves old
    files beside new ones. A link among the files that are replaced is replaced itself, and what it points to is kept.
    OSError for a link in place of a folder, and for weights that cannot be written, such as on a full disk.
    """
    from safetensors import SafetensorError

    folder.mkdir(parents=True, exist_ok=True)
    sweep_parts(folder)
    new = folder / _part_name()
    new.mkdir()
    try:
        yield new
        _move(new, folder)
    except SafetensorError as error:
        raise OSError(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _move(new: Path, folder: Path) -> None:
    """Move all files of ``new`` to the same places in ``folder``. Old ones are removed first."""
    moves = [(path, folder / path.relative_to(new)) for path in sorted(new.rglob("*")) if path.is_file()]
    for _, place in moves:
        if place.parent != folder and place.parent.is_symlink():
            raise OSError(f"{place.parent} is a link to another folder: nothing is written through it")
    for _, place in moves[1:]:
        place.unlink(missing_ok=True)
    for path, place in moves:
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)


@contextmanager
def writing_file(path: Path, new: bool = False) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to. At the end it is renamed to ``path``, or removed after an error.

    Its name belongs to this process and ends in ``.part``, so processes that write the same file do not meet: the file
    is whole at every moment, and the last one to finish wins. What a killed process leaves is removed by
    ``remove_part``.

    Args:
        new: FileExistsError at the end if ``path`` exists by then: the first one wins.
    """
    part = path.with_name(_part_name())
    part.touch()
    mode = part.stat().st_mode  # what the user's umask leaves; safetensors makes files that only their owner may read
    try:
        yield part
        part.chmod(mode)
        if new:
            _link(part, path)
        else:
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _part_name() -> str:
    """A name that belongs to this process, and that no call before has got."""
    return f".diffaug-{_place_of_processes()}-{os.getpid()}-{next(_numbers)}.part"


def _link(part: Path, path: Path) -> None:
    """Give a file a second name. FileExistsError if that is taken."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # the file system has no links
        if path.exists():
            raise FileExistsError(path) from None
        part.replace(path)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that it is whole at every moment. A string is written as UTF-8."""
    with writing_file(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def remove_part(path: Path) -> bool:
    """Remove what ``writing_file`` or ``writing`` left if its process is dead, or if it is older than a day.

    Returns:
        Whether the file or folder is one of theirs.
    """
    match = PART.fullmatch(path.name)
    if match is None:
        return False
    with suppress(OSError):  # another process removed it
        if _is_dead(match["place"], int(match["pid"])) or path.stat().st_mtime < time.time() - PART_SECONDS:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return True


def sweep_parts(folder: Path) -> None:
    """``remove_part`` for all that lies in a folder itself."""
    for path in folder.glob(".diffaug-*.part"):
        remove_part(path)


def _is_dead(place: str, pid: int) -> bool:
    """Whether a process of this machine no longer runs. False if it is not known."""
    if os.name != "posix" or place != _place_of_processes():
        return False
    try:
        os.kill(pid, 0)  # no signal is sent
    except ProcessLookupError:
        return True
    except OSError:  # it is another user's
        pass
    return False


@cache
def _place_of_processes() -> str:
    """A name for this machine, and for the container that numbers its processes."""
    try:
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbers = ""
    return hashlib.sha256(f"{platform.node()} {numbers}".encode()).hexdigest()[:8]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. OSError if the file is missing, damaged, too large, or holds something else."""
    with reading(path):
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has more than {MAX_JSON_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise OSError(f"{path} must hold a JSON object. Got {reprlib.repr(content)}")
    return content


def integer(low: int, high: int) -> Rule:
    test = lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high  # noqa: E731
    return test, f"an integer in {low}...{high}"


def number(low: float, high: float) -> Rule:
    """A finite number in a range."""
    test = lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high  # noqa: E731
    return test, f"a number in {low:g}...{high:g}"


def one_of(*words: Any) -> Rule:
    return lambda value: any(value is word or (isinstance(value, str) and value == word) for word in words), (
        f"one of {', '.join(map(repr, words))}"
    )


def text() -> Rule:
    return lambda value: isinstance(value, str), "text"


def boolean() -> Rule:
    return lambda value: isinstance(value, bool), "true or false"


def several(rule: Rule, most: int) -> Rule:
    """A list of 1...most values that each follow the rule."""
    test, words = rule
    return lambda values: isinstance(values, (list, tuple)) and 1 <= len(values) <= most and all(map(test, values)), (
        f"a list of 1...{most} values, each {words}"
    )


def optional(rule: Rule) -> Rule:
    test, words = rule
    return lambda value: value is None or test(value), f"{words}, or null"


def check_entries(entries: Mapping[str, Any], rules: Mapping[str, Rule], source: Path | str) -> None:
    """ValueError unless each entry that has a rule follows it."""
    for key, (test, words) in rules.items():
        if key in entries and not test(entries[key]):
            raise ValueError(f"{source}: {key} must be {words}. Got {reprlib.repr(entries[key])}")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, in float32 and in memory of their own.

    The file is safetensors, or else ``torch.load(weights_only=True)`` reads it. A dict with the entry ``state_dict``
    (Lightning) is read as that entry.

    Raises:
        OSError: the file is damaged, is no plain state dict, or holds NaN or infinite values.
    """
    safe = path.suffix == ".safetensors"
    with reading(path, "is damaged, incomplete or no state dict. Download it again"):
        state = load_safetensors(path) if safe else load_pickle(path)
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) and not x.is_complex() for x in state.values()):
        raise OSError(f"{path} is no plain state dict of tensors, as OpenAI's checkpoints are")
    with reading(path):
        # load_file maps the file into memory; a file that is written over must not change a loaded network.
        state = {str(name): value.to(torch.float32, copy=safe) for name, value in state.items()}
    check_finite(state, path)
    return state


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. ValueError unless they have the checksum that ``add_checksum`` wrote."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    state = load_file(path)
    with safe_open(path, "pt") as file:
        expected = (file.metadata() or {}).get(CHECKSUM)
    if expected is not None and expected != tensors_sha256(state):
        raise ValueError("its tensors are not those that were written, by their checksum")
    return state


def add_checksum(path: Path) -> None:
    """Write the checksum of a safetensors file's tensors into its metadata."""
    from safetensors.torch import load_file, save_file

    state = load_file(path)
    with writing_file(path) as new:
        save_file(state, new, metadata={"format": "pt", CHECKSUM: tensors_sha256(state)})
        sort_metadata(new)


def sort_metadata(path: Path) -> None:
    """Sort the metadata in a safetensors file, which has it in random order: equal tensors then give equal bytes."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size))


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of all names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_pickle(path: Path) -> Any:
    """What ``torch.load(weights_only=True)`` reads. UnpicklingError without torch's advice to run the file's code.

    Files of torch 1.6 and later are zip files. Their checksums are read here, because torch.load passes over them.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if wrong := file.testzip():
                raise zipfile.BadZipFile(f"the checksum of {wrong} is wrong")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise pickle.UnpicklingError("it holds Python objects, which are never run, or it is damaged") from None


def check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """OSError if a tensor holds a NaN or an infinite value."""
    for name, tensor in state.items():
        if tensor.numel() and not all(map(math.isfinite, torch.stack(tensor.aminmax()).tolist())):
            raise OSError(f"{path} is damaged: {name} has values that are NaN or infinite")


def load_strictly(
    module: nn.Module, state: dict[str, Tensor], source: Path, description: str, names: Iterable[str] = ()
) -> None:
    """Load every parameter, none left over.

    Args:
        names: the tensors' names in the file, if they differ from those of ``state``.

    Raises:
        OSError: the tensors do not fit the network that ``description`` describes. The message has the file's own
            first names.
    """
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        first = ", ".join(list(names or state)[:4])
        reason = " ".join(str(error).split()).rstrip(". ")[:400]
        raise OSError(
            f"the weights of {source} do not fit {description}: {reason}. The file's first tensors: {first}"
        ) from error
