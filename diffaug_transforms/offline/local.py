"""A folder tree of images -> the same tree of augmented copies, on this machine."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import PIL.Image
import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from ..arguments import as_number, as_path
from ..transforms import DeepAugment, DiffAug
from .copies import Prepare, Seeds, augment_images, check_options, copy_seed, encode_image, read_image


class Job(NamedTuple):
    """One copy to make."""

    source: Path
    target: Path
    seeds: Seeds


def augment_folder(
    source: str | Path,
    target: str | Path,
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

    A copy's draw depends only on the seed, the image's relative path and the number of the copy. The batch that the
    copy falls into does not matter. Copies that exist are kept, so the same call resumes a run that was stopped.

    Args:
        source, target: folders. ``target`` must not lie inside ``source``.
        augment: its own generator is not used.
        copies: copies per image. With more than one, the files are named NAME_0, NAME_1, ...
        seed: of all draws.
        redraw: the probability that a copy gets a newly corrupted network, for DeepAugment only. Other copies use the
            network of the image before them in the sorted list. The official scripts use 0.05.
        batch_size: how many images of one size go through the network together.
        prepare: applied to each RGB PIL image first, such as a Resize and a CenterCrop.
        device: where the network runs.

    Returns:
        One line for each image that could not be read. All other images were written.

    Raises:
        ValueError, TypeError: an argument is not as above, or ``target`` is inside ``source``.
        OSError: ``source`` is no folder with images.

    Example:
        >>> augment_folder(Path("train"), Path("train_diffaug"), DiffAug("cifar10"), copies=2)  # doctest: +SKIP
        []
    """
    check_options(augment, copies, seed, batch_size, prepare)
    redraw = as_number("redraw", redraw, at_least=0, at_most=1)
    # huggingface_hub brings tqdm, so it is no requirement of ours.
    from tqdm.auto import tqdm

    jobs = list_jobs(as_path("source", source), as_path("target", target), copies, seed, redraw)
    failures = set()
    progress = tqdm(total=len(jobs), unit="image", desc="diffaug augment")
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, progress as bar:
        for start in range(0, len(jobs), 4 * batch_size):
            chunk = jobs[start : start + 4 * batch_size]
            todo = [job for job in chunk if not job.target.exists()]
            sources = list(dict.fromkeys(str(job.source) for job in todo))
            read = dict(zip(sources, pool.map(lambda path: read_image(path, path, prepare), sources)))
            for line in (line for line in read.values() if isinstance(line, str)):
                failures.add(line)
                bar.write(line, file=sys.stderr)
            pairs = [(job, read[str(job.source)]) for job in todo]
            readable = [(job, image) for job, image in pairs if isinstance(image, Tensor)]
            bar.update(len(chunk) - len(readable))
            seeds = [job.seeds for job, _ in readable]
            for batch, done in augment_images(augment, [image for _, image in readable], seeds, batch_size, device):
                list(pool.map(save_image, done, [readable[i][0].target for i in batch]))
                bar.update(len(batch))
    return sorted(failures)


def list_jobs(source: Path, target: Path, copies: int, seed: int, redraw: float = 1.0) -> list[Job]:
    """All copies to make, sorted by path.

    Only the sorted list and the seed decide which copies share a corrupted network, so a run that resumes uses the same
    networks. Copies that share a network are neighbours in the list. Copy 0 of all images is one such sequence, copy 1
    is another.
    """
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
            draw, uniform = copy_seed(seed, relative.as_posix(), copy)
            if copy not in networks or uniform < redraw:
                networks[copy] = draw
            jobs.append(Job(path, target / relative.parent / name, Seeds(draw, networks[copy])))
    return jobs


def save_image(image: Tensor, path: Path) -> None:
    """Write beside the final name, then rename. A file that exists is therefore whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.part{path.suffix}")
    partial.write_bytes(encode_image(image, PIL.Image.registered_extensions()[path.suffix.lower()]))
    partial.replace(path)
