"""A folder tree of images -> the same tree of augmented copies, on this machine.

jobs --read_ahead--> images --in_batches--> batches of one size --network--> copies --WriteBehind--> files
"""

from __future__ import annotations

import enum
import errno
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import as_number, as_path, check_flags, counted
from ..files import writing_file
from ..transforms import DeepAugment
from .batches import augment_batch, image_bytes, in_batches
from .copies import (
    Augment,
    Prepare,
    Seeds,
    as_device,
    check_options,
    copy_seeds,
    encode_image,
    file_format,
    numbered,
    read_image,
)
from .cost import describe_cost
from .folders import find_pictures
from .overlap import WriteBehind, read_ahead, threads
from .record import check_folder, describe_options, find_copies, remove_parts, write_record

#: The longest name of a file, on almost every file system.
NAME_BYTES = 255


class Job(NamedTuple):
    """One copy to make."""

    source: Path
    target: Path
    seeds: Seeds


class State(enum.Enum):
    """Whether a copy is there, is to be made, or cannot be written."""

    DONE = enum.auto()
    MISSING = enum.auto()
    BLOCKED = enum.auto()


def augment_folder(
    source: str | Path,
    target: str | Path,
    augment: Augment,
    *,
    copies: int = 1,
    seed: int = 0,
    redraw: float = 1.0,
    batch_size: int = 64,
    prepare: Prepare = None,
    device: torch.device | str = "cpu",
    overwrite: bool = False,
) -> list[str]:
    """Write augmented copies of every image under ``source`` to the same place under ``target``.

    A copy's draw depends only on the seed, the image's relative path and the number of the copy. Copies that exist are
    kept, so the same call resumes a run that was stopped, and gives the same files. A copy that is older than its image
    is made again. The options are recorded in ``target/.diffaug.json``, and a call with others is refused.

    Reading, the network, and writing run side by side. Links to folders are followed; hidden files are left out.

    Args:
        source, target: folders. Neither may lie inside the other.
        augment: its own generator is not used. Purify makes one copy, the same for every seed.
        copies: copies per image. With more than one, the files are named NAME_0, NAME_1, ...
        seed: of all draws.
        redraw: the probability that a copy gets a newly corrupted network, for DeepAugment only. Other copies use the
            network of the image before them in the sorted list. The official scripts use 0.05.
        batch_size: how many images of one size go through the network together, fewer if they are large.
        prepare: applied to each RGB PIL image first, such as ``ResizeAndCrop(256, 224)``.
        device: where the network runs.
        overwrite: make all copies anew. Copies that an earlier call made are removed first.

    Returns:
        One line for each image that could not be read or written. All other images were written.

    Raises:
        ValueError, TypeError: an argument is not as above; one folder is inside the other; or ``target`` holds copies
            made with other options, or pictures without a record.
        OSError: ``source`` is no folder with images, or ``target`` cannot be written to.

    Example:
        >>> augment_folder(Path("train"), Path("train_diffaug"), DiffAug("cifar10"), copies=2)  # doctest: +SKIP
        []
    """
    check_options(augment, copies, seed, batch_size, prepare)
    redraw = as_number("redraw", redraw, at_least=0, at_most=1)
    check_flags(overwrite=overwrite)
    source, target, device = as_path("source", source), as_path("target", target), as_device(device)
    # huggingface_hub brings tqdm, so it is no requirement of ours.
    from tqdm.auto import tqdm

    jobs, failures = list_jobs(source, target, copies, seed, redraw)
    more = {"redraw": redraw} if isinstance(augment, DeepAugment) else {}
    options = describe_options(str(source.resolve()), augment, prepare, copies, seed, **more)
    record = check_folder(target, options, overwrite, [job.target for job in jobs])
    remove_parts(target)
    states, blocked = find_states(jobs, check_age=record is None or record["source"] is not None)
    done = sum(state is State.DONE for state in states.values())
    skipped = set(failures + blocked)
    missing = [job for job in jobs if states[job.target] is State.MISSING]
    sources = list(dict.fromkeys(job.source for job in missing))
    if cost := describe_cost(augment, sources, len(missing), prepare, device):
        warnings.warn(cost, stacklevel=2)
    if orphans := [path for path in find_copies(target) if path not in states]:
        what = "is no copy" if len(orphans) == 1 else "are no copies"
        text = f"{counted(len(orphans), 'picture')} in {target} {what} of pictures in {source}, such as {orphans[0]}"
        warnings.warn(text, stacklevel=2)
    with tqdm(total=len(jobs), initial=done, unit="image", desc="diffaug augment") as bar:
        bar.set_postfix_str(f"{done} were there already" if done else "")
        claim = partial(write_record, target, options)
        skipped |= make_copies(augment, jobs, states, batch_size, prepare, device, bar, claim)
    remove_parts(target)  # again, for another run into the same folder may have died meanwhile
    return sorted(skipped)


def list_jobs(source: Path, target: Path, copies: int, seed: int, redraw: float = 1.0) -> tuple[list[Job], list[str]]:
    """All copies to make, sorted by path, and one line for each picture that cannot be used.

    An image's seeds do not depend on those after it.
    """
    paths, skipped = find_pictures(source, target)
    jobs = []
    for path, seeds in zip(paths, copy_seeds((path.as_posix() for path in paths), copies, seed, redraw)):
        for copy, pair in enumerate(seeds):
            name = numbered(path.name, copy, copies)
            jobs.append(Job(source / path, target / path.parent / name, pair))
    return jobs, skipped


def find_states(jobs: Sequence[Job], check_age: bool = True) -> tuple[dict[Path, State], list[str]]:
    """The state of each target, and one line for each that cannot be written.

    Args:
        check_age: a copy that is older than its image is missing.
    """
    states, blocked = {}, []
    for job in jobs:
        try:
            if len(os.fsencode(job.target.name)) > NAME_BYTES:
                raise OSError(errno.ENAMETOOLONG, "its name is too long")
            status = os.stat(job.target)
            whole = S_ISREG(status.st_mode) and status.st_size > 0
            is_done = whole and not (check_age and status.st_mtime_ns < os.stat(job.source).st_mtime_ns)
            states[job.target] = State.DONE if is_done else State.MISSING
            fault = "" if S_ISREG(status.st_mode) else "it is no file, but has the name of one"
        except FileNotFoundError:
            states[job.target], fault = State.MISSING, ""
        except OSError as error:
            fault = str(error.strerror)
        if fault:
            states[job.target] = State.BLOCKED
            blocked.append(f"skipped: {job.target} cannot be written: {fault}")
    return states, blocked


def make_copies(
    augment: Augment,
    jobs: Sequence[Job],
    states: dict[Path, State],
    batch_size: int,
    prepare: Prepare,
    device: torch.device,
    bar: Any,
    claim: Callable[[], object],
) -> set[str]:
    """Make the copies that are missing. Returns a line for each image that cannot be read.

    Which images go through the network together does not depend on what is there already, because that changes the
    last bits. So a run that resumes computes again the whole batches in which a copy is missing, and no others.

    Args:
        claim: called before the first copy is written. So a run that fails at once leaves no record.
    """
    chunks = [jobs[start : start + 4 * batch_size] for start in range(0, len(jobs), 4 * batch_size)]
    chunks = [chunk for chunk in chunks if any(states[job.target] is State.MISSING for job in chunk)]
    skipped = set()

    def readable(pool: Any) -> Iterator[tuple[int, Job, Tensor]]:
        """(chunk, job, image) of the jobs whose image can be read."""
        pairs = [(n, list(same)) for n, chunk in enumerate(chunks) for same in by_source(chunk)]
        read = lambda pair: read_image(str(pair[1][0].source), str(pair[1][0].source), prepare)  # noqa: E731
        for (n, same), result in read_ahead(pool, read, pairs, 2 * batch_size, image_bytes):
            if isinstance(result, Tensor):
                yield from ((n, job, result) for job in same)
            else:
                skipped.add(result)

    with threads() as readers, threads() as writers:

        def written(fault: str) -> None:
            if fault:
                skipped.add(fault)
            bar.update(not fault)

        writing, claimed = WriteBehind(writers, written), False
        for batch in in_batches(readable(readers), batch_size):
            if all(states[job.target] is not State.MISSING for job, _ in batch):
                continue
            views = augment_batch(augment, [image for _, image in batch], [job.seeds for job, _ in batch], device)
            missing = [(view, job) for view, (job, _) in zip(views, batch) if states[job.target] is State.MISSING]
            if not claimed:
                claim()
                claimed = True
            writing.add(save_copy, missing)
        writing.finish()
    return skipped


def by_source(jobs: Iterable[Job]) -> Iterable[list[Job]]:
    """Jobs of the same image, which is read once."""
    same: dict[Path, list[Job]] = defaultdict(list)
    for job in jobs:
        same[job.source].append(job)
    return same.values()


def save_copy(copy: tuple[Tensor, Job]) -> str:
    """Write a copy. Returns a line if its name is too long for the file system, else nothing."""
    try:
        write_copy(*copy)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return f"skipped: {copy[1].target} cannot be written: its name is too long"
    return ""


def write_copy(view: Tensor, job: Job) -> None:
    """Write beside the final name, then rename. A file that exists is therefore whole."""
    job.target.parent.mkdir(parents=True, exist_ok=True)
    with writing_file(job.target) as part:
        part.write_bytes(encode_image(view, file_format(job.target.name)))
        with suppress(FileNotFoundError):  # the image was moved away
            source = os.stat(job.source).st_mtime_ns
            if source > os.stat(part).st_mtime_ns:  # it comes from the future, and must not be newer than its copy
                os.utime(part, ns=(source, source))
