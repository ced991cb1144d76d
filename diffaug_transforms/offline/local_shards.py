"""Rows and samples -> the same with augmented images, as shards, on this machine.

    Hub data set, Parquet files --datasets.map--> Parquet shards          WebDataset tars --> a tar for each

A shard has its name when it is whole, so a run that was stopped resumes with the next one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..arguments import as_path, check_flags
from ..files import writing_file
from .batches import Picture, augment_pictures
from .copies import Augment, Prepare, as_device, check_options, copy_seeds
from .cost import SAMPLE, describe_cost
from .folders import find_kind, is_image_folder, is_tar
from .overlap import threads
from .record import claim_shards, describe_options, remove_parts
from .shards import DamagedShard, Sample, members_with_copies, read_samples, write_samples
from .tables import augment_tables, describe_data, first_pictures, load_splits, plan_shards


def augment_shards(
    source: str | Path,
    target: str | Path,
    augment: Augment,
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
    check_age = record["source"] is not None
    tars = [] if kind == "table" else [pair for pair in find_tars(path, target) if not is_done(*pair, check_age)]
    tables, there = plan_shards(data, target)
    pictures, number = first_photos(tars, member) if tars else first_pictures(tables)
    if cost := describe_cost(augment, pictures, copies * number, prepare, device):
        warnings.warn(cost, stacklevel=2)
    with threads() as pool:
        work = partial(augment_pictures, augment, prepare=prepare, batch_size=batch_size, device=device, pool=pool)
        if kind == "table":
            skipped = augment_tables(tables, there, work, copies, seed, batch_size)
        else:
            skipped = augment_tars(tars, work, copies, seed, batch_size, member)
    remove_parts(target)  # again, for another run into the same folder may have died meanwhile
    return sorted(skipped)


def augment_tars(
    tars: Sequence[tuple[Path, Path]], work: Any, copies: int, seed: int, batch_size: int, member: str | None
) -> set[str]:
    """Write tars, given as pairs of target and source. Returns a line for each photo and tar that cannot be read."""
    from tqdm.auto import tqdm

    skipped: set[str] = set()
    with tqdm(unit="image", desc="diffaug augment") as bar:
        for place, tar in tars:
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                with tar.open("rb") as file, writing_file(place) as part, part.open("wb") as new:
                    samples = read_samples(file, str(tar), member)
                    write_samples(new, augment_samples(samples, work, copies, seed, batch_size, skipped, bar))
            except DamagedShard as error:
                skipped.add(f"skipped: {error}")
    return skipped


def find_tars(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Pairs of target and source: a tar file, or all under a folder."""
    if source.is_file():
        return [(target / source.name, source)]
    tars = sorted(path for path in source.rglob("*") if is_tar(path.name))
    return [(target / tar.relative_to(source), tar) for tar in tars]


def first_photos(tars: Sequence[tuple[Path, Path]], member: str | None) -> tuple[list[bytes], int]:
    """The first photos of the first tar, and about how many there are in all, by the sizes of the tars."""
    first = tars[0][1]
    with suppress(DamagedShard), first.open("rb") as file:
        samples = list(islice(read_samples(file, str(first), member), SAMPLE))
        share = file.tell() / sum(tar.stat().st_size for _, tar in tars)
        photos = [dict(sample.members)[sample.photo] for sample in samples if sample.photo is not None]
        return photos, round(len(photos) / min(1, share))
    return [], 0


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
