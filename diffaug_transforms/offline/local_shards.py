"""Rows and samples -> the same with augmented images, as shards, on this machine.

    Hub data set, Parquet files --datasets.map--> Parquet shards          WebDataset tars --> a tar for each

A shard has its name when it is whole, so a run that was stopped resumes with the next one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..arguments import as_path, check_flags
from ..files import writing_file
from ..transforms import DeepAugment, DiffAug
from .batches import Picture, augment_pictures
from .copies import Prepare, as_device, check_options, copy_seeds
from .folders import find_kind, is_image_folder, is_tar
from .overlap import threads
from .record import claim_shards, describe_options, remove_parts
from .shards import DamagedShard, Sample, members_with_copies, read_samples, write_samples
from .tables import augment_splits, describe_data, load_splits


def augment_shards(
    source: str | Path,
    target: str | Path,
    augment: DiffAug | DeepAugment,
    *,
    copies: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    prepare: Prepare = None,
    device: torch.device | str = "cpu",
    member: str | None = None,
    split: str | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write a Hub data set, Parquet files or WebDataset tars with augmented images as shards, in this process.

    The draws are those of ``augment_folder``. An image without a path is known by its bytes. DeepAugment corrupts a
    network for every copy. Rows and samples without an image stay as they are.

    Args:
        source: a Hub data set's id, or id:configuration; a Parquet file or a folder with some, in the Hub's layout if
            it has several splits; a tar file or a folder with some.
        target: a folder. A data set becomes SPLIT-00000-of-00012.parquet and so on, a tar keeps its name.
        copies: copies per image. With more than one, the columns (members) are named NAME_0, NAME_1, ... (0.jpg,
            1.jpg, ...).
        seed, batch_size, prepare, device, overwrite: as in ``augment_folder``.
        member: which member of a sample is the photo, by name or pattern, such as "jpg" or "*.jpg". None: the only
            picture that has no word before its ending.
        split: of a data set, such as "train". None: all.

    Returns:
        One line for each image that could not be read. All other rows were written.

    Raises:
        ValueError, TypeError: an argument is not as above, ``target`` holds copies made with other options, or the
            source is not what it should be: see ``shards.read_samples`` for tars.
        OSError: the source is missing or damaged. ImportError: ``datasets`` is missing.

    Example:
        >>> augment_shards("uoft-cs/cifar10", "cifar10_diffaug", DiffAug("cifar10"))  # doctest: +SKIP
        []
    """
    check_options(augment, copies, seed, batch_size, prepare)
    check_flags(overwrite=overwrite)
    path, target, device = as_path("source", source), as_path("target", target), as_device(device)
    if is_image_folder(source, target):
        raise ValueError(f"source must hold .parquet or .tar files: augment_folder is for images. Got {source}")
    kind = find_kind(path) if path.exists() else "table"
    data = load_splits(str(source), split) if kind == "table" else {}
    more = {"member": member} if kind == "shards" else {"split": split, "data": describe_data(data)}
    real = os.path.realpath(path) if path.exists() else str(source)
    record = claim_shards(str(target), describe_options(real, augment, prepare, copies, seed, **more), overwrite)
    remove_parts(target)
    with threads() as pool:
        work = partial(augment_pictures, augment, prepare=prepare, batch_size=batch_size, device=device, pool=pool)
        if kind == "table":
            return sorted(augment_splits(data, target, work, copies, seed, batch_size))
        check_age = record["source"] is not None
        return sorted(augment_tars(path, target, work, copies, seed, batch_size, member, check_age))


def augment_tars(
    source: Path,
    target: Path,
    work: Any,
    copies: int,
    seed: int,
    batch_size: int,
    member: str | None,
    check_age: bool,
) -> set[str]:
    """Write a tar for each tar that has none, or an older one if ``check_age``. Returns a line for each photo and tar
    that cannot be read.
    """
    from tqdm.auto import tqdm

    tars = [source] if source.is_file() else sorted(path for path in source.rglob("*") if is_tar(path.name))
    skipped: set[str] = set()
    with tqdm(unit="image", desc="diffaug augment") as bar:
        for tar in tars:
            place = target / (tar.name if tar == source else tar.relative_to(source))
            if is_done(place, tar, check_age):
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                with tar.open("rb") as file, writing_file(place) as part, part.open("wb") as new:
                    samples = read_samples(file, str(tar), member)
                    write_samples(new, augment_samples(samples, work, copies, seed, batch_size, skipped, bar))
            except DamagedShard as error:
                skipped.add(f"skipped: {error}")
    return skipped


def is_done(place: Path, source: Path, check_age: bool) -> bool:
    """Whether a file is there, is not empty, and if ``check_age`` not older than its source."""
    if not place.is_file() or not place.stat().st_size:
        return False
    return not check_age or place.stat().st_mtime_ns >= source.stat().st_mtime_ns


def augment_samples(
    samples: Iterator[Sample], work: Any, copies: int, seed: int, batch_size: int, skipped: set[str], bar: Any
) -> Iterator[tuple[str, Iterator[tuple[str, bytes]]]]:
    """(key, members) of the samples with their copies. Those whose photo cannot be read are left out."""
    while group := list(islice(samples, 4 * batch_size)):
        with_photo = [sample for sample in group if sample.photo is not None]
        names = [f"{sample.key}.{sample.photo}" for sample in with_photo]
        seeds = copy_seeds(names, copies, seed)
        photos = [dict(sample.members)[str(sample.photo)] for sample in with_photo]
        results = dict(zip(map(id, with_photo), work([Picture(*one) for one in zip(photos, names, seeds)])))
        bar.update(copies * len(with_photo))
        for sample in group:
            files = results.get(id(sample), [])
            if isinstance(files, str):
                skipped.add(files)
            else:
                yield sample.key, members_with_copies(sample, files)
