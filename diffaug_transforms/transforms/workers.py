"""A transform's generator on its way into DataLoader workers, and there: each worker must draw something else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator
from torch.utils.data import get_worker_info


def worker_generator(transform: Any) -> Generator:
    """The transform's ``generator``; in a DataLoader worker one that no other worker and no other epoch has.

    A worker has its own copy of the transform. At the first image, the generator in that copy is replaced by a new one,
    seeded with a draw from the old one and the worker's seed. The DataLoader draws the workers' seeds for each epoch
    from its own ``generator``, or from torch's global one, so the same seeds give the same epochs.
    """
    worker, generator = get_worker_info(), transform.generator
    if worker is not None and getattr(transform, "worker_seed", None) != worker.seed:
        drawn = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
        generator = Generator(generator.device).manual_seed(int(drawn) ^ worker.seed)
        transform.generator, transform.worker_seed = generator, worker.seed
    return generator


def pack_generator(state: dict[str, Any]) -> dict[str, Any]:
    """A transform's state for a pickle, with its generator as (device, bytes).

    A spawned worker cannot read torch's own pickle of a generator ("unable to resize file", torch 2.14).
    """
    generator = state["generator"]
    if generator is None:
        return state
    return {**state, "generator": (str(generator.device), generator.get_state().numpy().tobytes())}


def unpack_generator(state: dict[str, Any]) -> dict[str, Any]:
    """The inverse of ``pack_generator``."""
    if state["generator"] is None:
        return state
    device, values = state["generator"]
    generator = Generator(device)
    generator.set_state(torch.frombuffer(bytearray(values), dtype=torch.uint8))
    return {**state, "generator": generator}
