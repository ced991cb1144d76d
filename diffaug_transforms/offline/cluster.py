"""Ray: start it or find it, and how many workers fit its resources."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from ..arguments import as_number, as_optional_integer

#: Logical cores besides those of the workers: reading, writing and the filter of finished rows hold one each.
SPARE_CORES = 3


class Workers(NamedTuple):
    """How many workers run, what each one holds, where its network is, and a sentence if they are fewer than asked."""

    number: int
    gpus: float
    device: str
    note: str


def plan_workers(
    resources: Mapping[str, float], asked: int | None, device: str | None, gpus_per_worker: float = 1
) -> Workers:
    """As many workers as Ray has resources for. A worker that waits for resources would never start.

    Args:
        resources: Ray's, such as {"CPU": 8, "GPU": 2}.
        asked: the number of workers. None: as many as fit.
        device: where the networks run. None: on GPUs if there are any, else on the CPU.
        gpus_per_worker: a part of one GPU or a number of whole ones, for workers on GPUs.

    Raises:
        ValueError: Ray has no GPU, or too few for one worker, and ``device`` is a GPU; or it is one GPU by its number,
            which means nothing where each worker sees its own GPU only.
    """
    gpus_per_worker = as_number("gpus_per_worker", gpus_per_worker, above=0)
    if gpus_per_worker > 1 and gpus_per_worker % 1:
        raise ValueError(f"gpus_per_worker must be at most 1, or a whole number. Got {gpus_per_worker}")
    as_optional_integer("workers", asked, 1)
    cores, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    place = torch.device(device or ("cuda" if gpus else "cpu"))
    if place.type == "cuda" and place.index is not None:
        raise ValueError(
            f"device must be cpu or cuda with Ray, which gives each worker a GPU of its own. Got {device}. "
            f"To use this GPU alone, start Ray with CUDA_VISIBLE_DEVICES={place.index}"
        )
    fit, what = max(1, cores - SPARE_CORES), f"{cores} cores, {SPARE_CORES} of them for reading and writing"
    on_gpus = place.type == "cuda"
    if on_gpus:
        held = int(gpus * int(1 / gpus_per_worker)) if gpus_per_worker <= 1 else int(gpus / gpus_per_worker)
        if held == 0:
            raise ValueError(f"device cuda needs {gpus_per_worker:g} GPU for each worker, and Ray has {gpus}")
        if held <= fit:
            fit, what = held, f"{gpus} GPU{'s' if gpus > 1 else ''}, {gpus_per_worker:g} for each worker"
    number = min(asked or fit, fit)
    note = f"{number} {'worker runs' if number == 1 else 'workers run'} instead of {asked}: Ray has {what}"
    return Workers(number, gpus_per_worker if on_gpus else 0, str(place), note if asked and number < asked else "")


def start_ray(workers: int | None) -> tuple[Any, bool]:
    """The module ``ray``, and whether this call started it: Ray as it is initialized, or the cluster at RAY_ADDRESS, or
    a new one that only this machine can reach, without dashboard and usage statistics.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local: dict[str, Any] = {}
    if "RAY_ADDRESS" not in os.environ:
        # On every system, this variable makes Ray listen on 127.0.0.1 only.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        local = {"num_cpus": (workers or os.cpu_count() or 1) + SPARE_CORES, "include_dashboard": False}
    try:
        import ray
        import ray.data.checkpoint
        import ray.util.queue
    except ImportError:
        raise ImportError('engine ray needs Ray Data: pip install "diffaug-transforms[ray]"') from None
    # Errors are raised here. Ray Data would log their traces as well.
    for name in ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        return ray, False
    ray.init(log_to_driver=False, logging_level=logging.WARNING, **local)
    return ray, True
