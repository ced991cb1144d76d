"""Batches of a test set, shared among processes, and the noise that belongs to each image."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from .sets import Images

T = TypeVar("T")


def places_in_full(data: Images) -> list[int]:
    """The place of each image in the full set, of which ``data`` may be a Subset, or a Subset of one.

    An image's noise depends on it.
    """
    if not isinstance(data, Subset):
        return list(range(len(data)))  # type: ignore[arg-type]
    places = places_in_full(data.dataset)
    return [places[index] for index in data.indices]


class Batch(NamedTuple):
    """A batch of a test set.

    Attributes:
        images: uint8 (B, C, H, W). targets: (B,) or (B, M).
        places: of the images in the full set, see ``places_in_full``.
        noise: of ``draw_noise``, (number, B, C, H, W), by number.
    """

    images: Tensor
    targets: Tensor
    places: list[int]
    noise: dict[int, Tensor]


def batches(
    data: Images,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    *,
    workers: int = 0,
    numbers: Collection[int] = (),
    seed: int = 0,
) -> Iterator[Batch]:
    """Batches of every ``world``-th image from ``rank`` on. The next one is made while one is used.

    Args:
        workers: processes that read, decode and corrupt images. 0: a thread does it.
        numbers: how many draws of noise each image gets; a batch has the noise of each number. Threads draw it, because
            it is too large to send between processes.
        seed: of the noise.
    """
    own = Subset(data, range(rank, len(data), world))  # type: ignore[arg-type]
    places = places_in_full(data)[rank::world]
    workers = min(workers, -(-len(own) // batch_size))

    def make() -> Iterator[Batch]:
        loader = DataLoader(own, batch_size, num_workers=workers, pin_memory=torch.cuda.is_available())
        for start, (images, targets) in zip(range(0, len(places), batch_size), loader):
            here = places[start : start + batch_size]
            noise = {number: pin(draw_noise(here, number, images.shape[1:], seed)) for number in numbers}
            yield Batch(images, targets, here, noise)

    return ahead(make())


def draw_noise(places: Sequence[int], number: int, size: Sequence[int], seed: int) -> Tensor:
    """(number, B, C, H, W). An image's noise depends on the seed and its place alone, not on its batch or process."""

    def draw(place: int) -> Tensor:
        generator = torch.Generator().manual_seed(hash((seed, place)) % 2**63)
        return torch.randn(number, *size, generator=generator)

    if len(places) == 1:
        return draw(places[0])[:, None]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return torch.stack(list(pool.map(draw, places)), dim=1)


def pin(tensor: Tensor) -> Tensor:
    """A copy in memory from which a GPU takes it without the host's waiting; the tensor itself without a GPU."""
    return tensor.pin_memory() if torch.cuda.is_available() else tensor


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items. While one is used, a thread makes the next."""
    source = iter(items)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, source, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, source, None)
            yield item
