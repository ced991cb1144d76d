"""Images of many sizes -> batches of one size -> the network -> the files of the copies."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..transforms import Purify
from .copies import Augment, Prepare, Seeds, encode_image, file_format, read_image
from .overlap import WriteBehind, read_ahead

#: The most pixels that go through the network together, and that wait for others of their size.
BATCH_PIXELS, HELD_PIXELS = 2**26, 2**28
Item = TypeVar("Item")


class Picture(NamedTuple):
    """A file in memory, the name that messages and its format have, and the seeds of its copies."""

    data: bytes
    name: str
    seeds: Sequence[Seeds]


def name_of(data: bytes, path: str | None) -> str:
    """What a picture is known by: its path, or else its bytes, which are the same wherever it is read."""
    return path or f"sha256:{hashlib.sha256(data).hexdigest()}"


def augment_batch(
    augment: Augment, images: Sequence[Tensor], seeds: Sequence[Seeds], device: torch.device | str
) -> Tensor:
    """Augment images, uint8 (3, H, W) of one size, each with its own seeds: uint8 (B, 3, H, W) on the CPU."""
    if isinstance(augment, Purify):
        return augment(torch.stack(list(images)).to(device)).cpu()
    params = []
    generator = augment.generator
    try:
        for image, seed in zip(images, seeds):
            augment.generator = torch.Generator().manual_seed(seed.draw)
            params.append(augment.make_params([image]))
            if "network_seed" in params[-1]:
                params[-1]["network_seed"] = torch.tensor([seed.network])
    finally:
        augment.generator = generator
    together = {name: torch.cat([draw[name] for draw in params]).to(device) for name in params[0]}
    return augment.transform(torch.stack(list(images)).to(device), together).cpu()


def in_batches(images: Iterable[tuple[int, Item, Tensor]], batch_size: int) -> Iterator[list[tuple[Item, Tensor]]]:
    """Batches of images of one size, in an order that depends on the images alone.

    No batch holds images of two chunks, more than ``batch_size`` images, or more than ``BATCH_PIXELS`` unless it is one
    image. At most ``HELD_PIXELS`` wait for others of their size.

    Args:
        images: (the number of its chunk, anything, the image) in the order of the chunks.
    """
    groups: dict[torch.Size, list[tuple[Item, Tensor]]] = defaultdict(list)
    chunk, held = -1, 0
    for n, item, image in images:
        pixels = image.shape[-2] * image.shape[-1]
        if n != chunk or held + pixels > HELD_PIXELS:
            yield from groups.values()
            groups.clear()
            chunk, held = n, 0
        group = groups[image.shape]
        group.append((item, image))
        held += pixels
        if len(group) == batch_size or (len(group) + 1) * pixels > BATCH_PIXELS:
            yield groups.pop(image.shape)
            held -= len(group) * pixels
    yield from groups.values()


def augment_pictures(
    augment: Augment,
    pictures: Sequence[Picture],
    prepare: Prepare,
    batch_size: int,
    device: torch.device | str,
    pool: ThreadPoolExecutor,
) -> list[list[bytes] | str]:
    """For each picture the files of its copies, or the line that says why it cannot be read.

    Threads of the pool read and encode while the network runs.
    """
    files: list[list[bytes] | str] = [[b""] * len(picture.seeds) for picture in pictures]

    def read(i: int) -> Tensor | str:
        return read_image(pictures[i].data, pictures[i].name, prepare)

    def images() -> Iterator[tuple[int, tuple[int, int], Tensor]]:
        for i, image in read_ahead(pool, read, range(len(pictures)), 2 * batch_size, image_bytes):
            if isinstance(image, str):
                files[i] = image
            else:
                yield from ((0, (i, copy), image) for copy in range(len(pictures[i].seeds)))

    def encode(one: tuple[tuple[int, int], Tensor]) -> tuple[int, int, bytes]:
        (i, copy), view = one
        return i, copy, encode_image(view, file_format(pictures[i].name, pictures[i].data))

    def keep(one: tuple[int, int, bytes]) -> None:
        i, copy, data = one
        files[i][copy] = data  # type: ignore[index]

    writing = WriteBehind(pool, keep)
    for batch in in_batches(images(), batch_size):
        seeds = [pictures[i].seeds[copy] for (i, copy), _ in batch]
        views = augment_batch(augment, [image for _, image in batch], seeds, device)
        writing.add(encode, zip([place for place, _ in batch], views))
    writing.finish()
    return files


def image_bytes(image: Tensor | str) -> int:
    """The memory of what ``read_image`` returns."""
    return image.nbytes if isinstance(image, Tensor) else 1
