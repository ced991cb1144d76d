"""The record of the options that copies were made with, a hidden file beside them: a run with others is refused.

Everything that changes a copy is in it. What only changes its last bits, the batch size and the device, is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms import v2

from ..files import read_json, remove_part, tensors_sha256, writing_file
from ..score import ScoreNetwork, load_score_network
from ..transforms import DeepAugment, DiffAug, Purify
from ..versions import package_version
from .copies import QUALITY, Augment, Prepare, ResizeAndCrop
from .folders import is_parquet, is_picture, is_tar

#: The record's name in the destination.
RECORD = ".diffaug.json"
#: What mends a destination with another record.
CURE = "Choose another folder, or make all copies anew with --overwrite (in Python overwrite=True)"


def describe_options(
    source: str, augment: Augment, prepare: Prepare, copies: int, seed: int, **more: Any
) -> dict[str, Any]:
    """Everything that decides what the copies look like, as plain values. Loads the network for its checksum."""
    options = {
        "version": package_version(),
        "source": source,
        **describe_augment(augment),
        **describe_prepare(prepare),
        "copies": copies,
        "seed": seed,
        "quality": QUALITY,
        **more,
    }
    return json.loads(json.dumps(options))


def describe_augment(augment: Augment) -> dict[str, Any]:
    """A transform's options, and the checksum of its weights."""
    if isinstance(augment, DeepAugment):
        kind = {"noise2net": "deepaugment"}.get(augment.network, f"deepaugment:{augment.network}")
        weights = None if augment.weights is None else file_sha256(Path(augment.weights).expanduser())
        return {"with": kind, "weights": weights, "size": augment.size, "max_epsilon": augment.max_epsilon}
    dtype = None if augment.denoiser.dtype is None else str(augment.denoiser.dtype).removeprefix("torch.")
    network = {"name": augment.denoiser.extra_repr(), "sha256": network_sha256(augment)}
    if isinstance(augment, Purify):
        rule = {"sigma": augment.sigma, "gate": augment.used_gate}
        return {"with": "purify", "network": network, **rule, "dtype": dtype}
    steps = augment.denoiser.augment_timesteps if augment.timesteps is None else augment.timesteps
    augment.network.schedule.check_timesteps(steps)
    matched = augment.timesteps is None and augment.network.image_size is None
    return {
        "with": "diffaug",
        "network": network,
        "timesteps": "matched to each picture's size" if matched else describe_timesteps(steps),
        "p": augment.p,
        "dtype": dtype,
    }


def describe_timesteps(steps: Sequence[int]) -> str:
    """Timesteps as ``--timesteps`` takes them: ``500``, ``50,100,175`` or ``start:stop:step``."""
    if len(steps) > 2:
        stride = steps[1] - steps[0]
        if stride and list(steps) == list(range(steps[0], steps[-1] + stride, stride)):
            return f"{steps[0]}:{steps[-1] + stride}:{stride}"
    return ",".join(map(str, steps))


def network_sha256(augment: DiffAug | Purify) -> str:
    """The checksum of a network's weights as they were loaded, its schedule, and what it predicts."""
    denoiser = augment.denoiser
    network = denoiser.network
    if not isinstance(denoiser.source, ScoreNetwork) and network.dtype != torch.float32:
        network = load_score_network(denoiser.source)  # the first was made fast for a device
    state = {name: tensor.cpu() for name, tensor in network.unet.state_dict().items()}
    state["schedule.alphas_cumprod"] = network.schedule.alphas_cumprod.cpu()
    meaning = f"{network.prediction_type} {network.variance_type} {network.null_class} {network.guidance_scale}"
    return hashlib.sha256(f"{tensors_sha256(state)} {meaning}".encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The checksum of a file. OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_prepare(prepare: Prepare) -> dict[str, Any]:
    """What is done to a picture first. A transform is known by its repr, a function by its name."""
    if prepare is None or isinstance(prepare, ResizeAndCrop):
        steps = prepare or ResizeAndCrop()
        return {"resize": steps.resize, "crop": steps.crop}
    if isinstance(prepare, (v2.Transform, v2.Compose)):
        return {"prepare": re.sub(r"\s+", " ", re.sub(r" at 0x[0-9a-f]+", "", repr(prepare)))}
    return {"prepare": getattr(prepare, "__qualname__", type(prepare).__qualname__)}


def check_record(found: dict[str, Any], options: dict[str, Any], place: str) -> None:
    """ValueError, with both values of each option, if copies were made with other options."""
    differences = []
    for name in dict.fromkeys([*options, *found]):
        before, now = found.get(name), options.get(name)
        if name == "source" and before is None and name in found:
            continue  # somebody says that the pictures are the same
        if isinstance(before, dict) and isinstance(now, dict) and before.get("sha256") == now.get("sha256"):
            continue  # the same network under another name
        if before != now:
            differences.append(f"{name} was {_shown(before)}, is {_shown(now)}")
    if not differences:
        return
    moved = ""
    if found.get("source") != options.get("source"):
        moved = f". If the folder was only moved, set source to null in {RECORD} there"
    raise ValueError(f"{place} holds copies made with other options: {'; '.join(differences)}. {CURE}{moved}")


def _shown(value: Any) -> str:
    """A value for people. A network is its name and the start of its checksum."""
    if isinstance(value, dict):
        return f"{value.get('name')} ({str(value.get('sha256'))[:8]})"
    return repr(value if not isinstance(value, str) or len(value) < 300 else f"{value[:300]}...")


def check_folder(
    target: Path, options: dict[str, Any], overwrite: bool, files: Iterable[Path]
) -> dict[str, Any] | None:
    """The record of a folder of pictures, or None if there is none. Nothing is written: see ``write_record``.

    Args:
        overwrite: remove the record, and the copies that are there: all pictures if there is a record, else ``files``.
        files: the copies that will be written.

    Raises:
        ValueError: the folder has the record of other options, or pictures and no record.
        OSError: the record is damaged, or ``target`` is a file.
    """
    if target.exists() and not target.is_dir():
        raise OSError(f"DST must be a folder. Got the file {target}")
    record, pictures = target / RECORD, find_copies(target)
    has_record = record.exists()
    if overwrite:
        for path in pictures if has_record else files:
            if path.is_file() or path.is_symlink():
                path.unlink()
        record.unlink(missing_ok=True)
        return None
    if has_record:
        found = read_record(record)
        check_record(found, options, str(target))
        return found
    if (one := next(pictures, None)) is not None:
        raise ValueError(f"{target} holds pictures, such as {one}, and no record of their options. {CURE}")
    return None


def find_copies(target: Path) -> Iterator[Path]:
    """All pictures under a destination."""
    return (Path(folder, name) for folder, _, names in os.walk(target) for name in names if is_picture(name))


def claim_shards(target: str, options: dict[str, Any], overwrite: bool) -> dict[str, Any]:
    """Write the record into a folder of shards, a path or a URI, or check it. Returns the one that is there.

    Args:
        overwrite: first remove the shards, if they have a record. A record without shards is replaced in any case.

    Raises:
        ValueError: the folder has the record of other options, or shards and no record.
        OSError: the record is damaged, or the folder cannot be written to.
    """
    if "://" in target:
        return _claim_uri(target, options, overwrite)
    folder = Path(target)
    shards = sorted(path for path in folder.rglob("*") if is_shard(path.name) and path.parent.name != ".checkpoint")
    if shards and not (folder / RECORD).exists():
        raise ValueError(f"{target} holds shards, such as {shards[0].name}, and no record. Choose another folder")
    if overwrite or not shards:
        shutil.rmtree(folder / ".checkpoint", ignore_errors=True)
        for path in shards:
            path.unlink()
        (folder / RECORD).unlink(missing_ok=True)
    return write_record(folder, options)


def is_shard(name: str) -> bool:
    """Whether a file's name is that of a shard, and not hidden."""
    return is_parquet(name) or is_tar(name)


def _claim_uri(target: str, options: dict[str, Any], overwrite: bool) -> dict[str, Any]:
    from pyarrow import fs

    system, root = fs.FileSystem.from_uri(target)
    infos = system.get_file_info(fs.FileSelector(root, allow_not_found=True))
    names = [info.base_name for info in infos]
    shards = [name for name in names if is_shard(name)]
    if shards and RECORD not in names:
        raise ValueError(f"{target} holds shards, such as {shards[0]}, and no record. Choose another folder")
    if overwrite or not shards:
        for info in infos:
            if info.base_name == ".checkpoint":
                system.delete_dir(info.path)
            elif is_shard(info.base_name):
                system.delete_file(info.path)
        system.create_dir(root, recursive=True)
        with system.open_output_stream(f"{root}/{RECORD}") as file:
            file.write(json.dumps(options, indent=2).encode())
    with system.open_input_stream(f"{root}/{RECORD}") as file:
        found = json.loads(file.read())
    check_record(found, options, target)
    return found


def write_record(target: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Write the record if there is none, else check it. Returns the one that is there."""
    record = target / RECORD
    target.mkdir(parents=True, exist_ok=True)
    if not record.exists():
        with suppress(FileExistsError), writing_file(record, new=True) as part:  # or another run is first
            part.write_text(f"{json.dumps(options, indent=2)}\n", encoding="utf-8")
    found = read_record(record)
    check_record(found, options, str(target))
    return found


def read_record(path: Path) -> dict[str, Any]:
    """The options in a record. OSError if it is damaged."""
    try:
        return read_json(path)
    except OSError as error:
        raise OSError(f"{error}. {CURE}") from error


def remove_parts(target: Path) -> None:
    """Remove the unfinished files that killed runs left."""
    for folder, _, names in os.walk(target):
        for name in names:
            if name.endswith(".part"):
                remove_part(Path(folder, name))
