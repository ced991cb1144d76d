"""Augment a folder tree of images, for training where DiffAug in the loop is too slow. `diffaug augment` runs it."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2 import functional as F

from .transforms import DiffAug


@dataclass(frozen=True)
class Job:
    """One copy to make: from where, to where, and the seed of its draw."""

    source: Path
    target: Path
    seed: int


def augment_folder(
    source: Path,
    target: Path,
    augment: DiffAug,
    *,
    copies: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    prepare: Callable[[PIL.Image.Image], PIL.Image.Image] | None = None,
    device: torch.device | str = "cpu",
) -> list[str]:
    """Write augmented copies of every image under ``source`` to the same place under ``target``.

    A copy's draw depends on the seed, the image's relative path and the copy's number alone, so it is the same in
    whatever batch it falls. Copies that exist are left as they are: a stopped run resumes where it was.

    Args:
        source, target: folders; target must not lie inside source.
        augment: its draws are replaced by those of the seed.
        copies: per image; with more than one, names get _0, _1, ... before their suffix.
        batch_size: images of equal size that go through the network together.
        prepare: applied to each RGB PIL image first, such as a Resize and a CenterCrop.
        device: where the network runs.

    Returns:
        One line per image that could not be read, naming it; the others were written.
    """
    jobs = list_jobs(source, target, copies, seed)
    failures: list[str] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, progress_bar(len(jobs)) as bar:
        for start in range(0, len(jobs), 4 * batch_size):
            chunk = [job for job in jobs[start : start + 4 * batch_size] if not job.target.exists()]
            bar.update(len(jobs[start : start + 4 * batch_size]) - len(chunk))
            by_size: dict[tuple[int, ...], list[tuple[Job, Tensor]]] = defaultdict(list)
            for job, image in zip(chunk, pool.map(lambda job: read_image(job.source, prepare), chunk)):
                if isinstance(image, str):
                    failures.append(image)
                    bar.write(image, file=sys.stderr)
                    bar.update(1)
                else:
                    by_size[tuple(image.shape)].append((job, image))
            for same_size in by_size.values():
                for batch in batches(same_size, batch_size):
                    done = augment_batch(augment, [image for _, image in batch], [job.seed for job, _ in batch], device)
                    list(pool.map(save_image, done, [job.target for job, _ in batch]))
                    bar.update(len(batch))
    return sorted(set(failures))


def list_jobs(source: Path, target: Path, copies: int, seed: int) -> list[Job]:
    """All copies to make, sorted by path. ValueError, OSError for folders that cannot be."""
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
    for path in images:
        relative = path.relative_to(source)
        for copy in range(copies):
            name = relative.name if copies == 1 else f"{relative.stem}_{copy}{relative.suffix}"
            digest = hashlib.sha256(f"{seed}/{relative.as_posix()}/{copy}".encode()).digest()
            jobs.append(Job(path, target / relative.parent / name, int.from_bytes(digest[:7], "big")))
    return jobs


def read_image(path: Path, prepare: Callable[[PIL.Image.Image], PIL.Image.Image] | None) -> Tensor | str:
    """uint8 (3, H, W), upright; or a line that says why not."""
    try:
        with PIL.Image.open(path) as file:
            image = PIL.ImageOps.exif_transpose(file).convert("RGB")
    except Exception as error:
        return f"skipped {path}: {type(error).__name__}: {error}"
    return F.pil_to_tensor(prepare(image) if prepare is not None else image)


def augment_batch(augment: DiffAug, images: list[Tensor], seeds: list[int], device: torch.device | str) -> Tensor:
    """Images of one size, each with the draw of its own seed: uint8 (B, 3, H, W) on the CPU."""
    params = []
    for image, seed in zip(images, seeds):
        augment.generator = torch.Generator().manual_seed(seed)
        params.append(augment.make_params([image]))
    batch = torch.stack(images).to(device)
    together = {name: torch.cat([draw[name] for draw in params]).to(device) for name in params[0]}
    return augment.transform(batch, together).cpu()


def save_image(image: Tensor, path: Path) -> None:
    """Write beside the final name and rename, so that a file that exists is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.part{path.suffix}")
    F.to_pil_image(image).save(
        partial, **({"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg", ".webp") else {})
    )
    partial.replace(path)


def batches(items: list[tuple[Job, Tensor]], size: int) -> Iterator[list[tuple[Job, Tensor]]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def progress_bar(total: int):  # type: ignore[no-untyped-def]  # tqdm has no types
    # huggingface_hub brings tqdm, so this is no requirement of its own.
    from tqdm.auto import tqdm

    return tqdm(total=total, unit="image", desc="diffaug augment")
