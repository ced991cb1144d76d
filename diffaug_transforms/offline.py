"""Augment a folder tree of images, for training where augmenting in the loop is too slow. `diffaug augment` runs it."""

from __future__ import annotations

import hashlib
import io
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2 import functional as F

from .transforms import DeepAugment, DiffAug

Prepare = Callable[[PIL.Image.Image], PIL.Image.Image] | None
T = TypeVar("T")


class Seeds(NamedTuple):
    """Of one copy: that of its draw, and that of its corrupted network (DeepAugment alone)."""

    draw: int
    network: int


@dataclass(frozen=True)
class Job:
    """One copy to make: from where, to where, with which seeds."""

    source: Path
    target: Path
    seeds: Seeds


def augment_folder(
    source: Path,
    target: Path,
    augment: DiffAug | DeepAugment,
    *,
    copies: int = 1,
    seed: int = 0,
    redraw: float = 1.0,
    batch_size: int = 64,
    prepare: Prepare = None,
    device: torch.device | str = "cpu",
) -> list[str]:
    """Write augmented copies of every image under ``source`` to the same place under ``target``.

    A copy's draw depends on the seed, the image's relative path and the copy's number alone, so it is the same in
    whatever batch it falls. Copies that exist are left as they are: a stopped run resumes where it was.

    Args:
        source, target: folders; target must not lie inside source.
        augment: its draws are replaced by those of the seed.
        copies: per image; with more than one, names get _0, _1, ... before their suffix.
        redraw: DeepAugment alone: probability that a copy gets a newly corrupted network; otherwise it shares that of
            the image before it in the sorted list, as in the official scripts, whose value is 0.05.
        batch_size: images of equal size that go through the network together.
        prepare: applied to each RGB PIL image first, such as a Resize and a CenterCrop.
        device: where the network runs.

    Returns:
        One line per image that could not be read, naming it; the others were written.
    """
    jobs = list_jobs(source, target, copies, seed, redraw)
    failures: list[str] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, progress_bar(len(jobs)) as bar:
        for start in range(0, len(jobs), 4 * batch_size):
            chunk = [job for job in jobs[start : start + 4 * batch_size] if not job.target.exists()]
            sources = list(dict.fromkeys(job.source for job in chunk))
            read: dict[Path, Any] = dict(zip(sources, pool.map(lambda path: read_image(path, prepare), sources)))
            failures += report_failures(read, bar)
            readable = [job for job in chunk if isinstance(read[job.source], Tensor)]
            bar.update(len(jobs[start : start + 4 * batch_size]) - len(readable))
            for batch in same_size_batches(readable, [read[job.source].shape for job in readable], batch_size):
                images = [read[job.source] for job in batch]
                done = augment_batch(augment, images, [job.seeds for job in batch], device)
                list(pool.map(save_image, done, [job.target for job in batch]))
                bar.update(len(batch))
    return sorted(set(failures))


def report_failures(read: dict[Path, Any], bar: Any) -> list[str]:
    """The lines that stand for images that could not be read, each printed."""
    lines = [line for line in read.values() if isinstance(line, str)]
    for line in lines:
        bar.write(line, file=sys.stderr)
    return lines


def list_jobs(source: Path, target: Path, copies: int, seed: int, redraw: float = 1.0) -> list[Job]:
    """All copies to make, sorted by path. ValueError, OSError for folders that cannot be.

    The list and the seed alone say which copies share a network: a stopped run resumes with the same ones, and those
    that share one stand together in a batch. The copies of an image each follow a walk of their own.
    """
    if copies < 1:
        raise ValueError(f"copies must be at least 1. Got {copies}")
    if not source.is_dir():
        raise OSError(f"SRC must be a folder of images. Got {source}")
    if target.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"DST must not lie inside SRC. Got {target}")
    images = sorted(path for path in source.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS and path.is_file())
    if not images:
        raise OSError(f"there are no images under {source} (looked for {', '.join(IMG_EXTENSIONS)})")
    jobs = []
    networks: dict[int, int] = {}
    for path in images:
        relative = path.relative_to(source)
        for copy in range(copies):
            name = relative.name if copies == 1 else f"{relative.stem}_{copy}{relative.suffix}"
            own, uniform = copy_seed(seed, relative.as_posix(), copy)
            if copy not in networks or uniform < redraw:
                networks[copy] = own
            jobs.append(Job(path, target / relative.parent / name, Seeds(own, networks[copy])))
    return jobs


def copy_seed(seed: int, image: str, copy: int) -> tuple[int, float]:
    """The seed of one copy's draw, 56 bits, and a uniform number in [0, 1) independent of it."""
    digest = hashlib.sha256(f"{seed}/{image}/{copy}".encode()).digest()
    return int.from_bytes(digest[:7], "big"), int.from_bytes(digest[7:13], "big") / 2**48


def read_image(path: Path | str, prepare: Prepare, data: bytes | None = None) -> Tensor | str:
    """uint8 (3, H, W), upright; or a line that says why not. ``data``: the file's bytes where they are at hand."""
    opened = path if data is None else io.BytesIO(data)
    try:
        with PIL.Image.open(opened) as file:
            image = PIL.ImageOps.exif_transpose(file).convert("RGB")
    except Exception as error:
        return f"skipped {path}: {type(error).__name__}: {str(error).replace(repr(opened), repr(str(path)))}"
    return F.pil_to_tensor(prepare(image) if prepare is not None else image)


def augment_batch(
    augment: DiffAug | DeepAugment, images: list[Tensor], seeds: list[Seeds], device: torch.device | str
) -> Tensor:
    """Images of one size, each with the draw of its own seed: uint8 (B, 3, H, W) on the CPU."""
    params = []
    for image, seed in zip(images, seeds):
        augment.generator = torch.Generator().manual_seed(seed.draw)
        params.append(augment.make_params([image]))
        if "network_seed" in params[-1]:
            params[-1]["network_seed"] = torch.tensor([seed.network])
    batch = torch.stack(images).to(device)
    together = {name: torch.cat([draw[name] for draw in params]).to(device) for name in params[0]}
    return augment.transform(batch, together).cpu()


def save_image(image: Tensor, path: Path) -> None:
    """Write beside the final name and rename, so that a file that exists is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.part{path.suffix}")
    partial.write_bytes(encode_image(image, PIL.Image.registered_extensions()[path.suffix.lower()]))
    partial.replace(path)


def encode_image(image: Tensor, file_format: str) -> bytes:
    """A file of Pillow's format name, such as JPEG."""
    file = io.BytesIO()
    F.to_pil_image(image).save(file, file_format, **({"quality": 95} if file_format in ("JPEG", "WEBP") else {}))
    return file.getvalue()


def same_size_batches(items: Sequence[T], shapes: Sequence[Any], size: int) -> Iterator[list[T]]:
    """The items in batches of one shape, at most ``size`` long, in their order."""
    by_shape: dict[Any, list[T]] = defaultdict(list)
    for item, shape in zip(items, shapes):
        by_shape[shape].append(item)
    for same in by_shape.values():
        yield from (same[start : start + size] for start in range(0, len(same), size))


def progress_bar(total: int):  # type: ignore[no-untyped-def]  # tqdm has no types
    # huggingface_hub brings tqdm, so this is no requirement of its own.
    from tqdm.auto import tqdm

    return tqdm(total=total, unit="image", desc="diffaug augment")
