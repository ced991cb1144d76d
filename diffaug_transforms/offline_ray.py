"""The offline command on Ray Data, for images beyond one machine: `diffaug augment --engine ray` runs it.

    SRC --read--> rows with an image column --one network per worker--> the same rows, augmented --> shards under DST
    image folder, Parquet or WebDataset                                 Parquet; WebDataset where SRC was

Ray Data restarts workers that die and repeats what they had in hand. Rows are checkpointed under ``DST/.checkpoint`` by
an id that the reader gives them, in one two-phase commit with the shards: a run that was killed resumes, and every
image is in the output once.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .offline import Prepare, Seeds, augment_batch, copy_seed, encode_image, read_image, same_size_batches
from .offline_rows import absolute, file_format, read_rows, replace_images, webdataset_members


def augment_dataset(
    source: str,
    target: str,
    augment: Any,
    *,
    copies: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    prepare: Prepare = None,
    device: str | None = None,
    workers: int | None = None,
) -> list[str]:
    """Write the rows of ``source`` with augmented images as shards under ``target``.

    A copy's draw depends on the seed, the image's path (its row where it has none) and the copy's number alone, and is
    that of ``augment_folder``; DeepAugment corrupts a network for every copy. Images keep their file format.

    Args:
        source, target: paths, or URIs that pyarrow knows (s3://, gs://), in reach of all nodes of the cluster. source:
            an image folder (its output has columns image, path and label, the name of the first folder); Parquet files
            with an image column, structs with bytes and path as in Hugging Face datasets, or bytes; or WebDataset
            tar files. Other columns and members are kept.
        augment: DiffAug or DeepAugment; each worker has its own network.
        copies: per image; with more than one, columns (members) get _0, _1, ..., so that a row remains one image.
        device: None: a GPU for each worker where the cluster has any, else the CPU.
        workers: how many; None: one per GPU of the cluster, or per core.

    Returns:
        One line per image that could not be read; the others were written.

    Raises:
        ImportError: without Ray; ValueError, OSError: arguments or a source that cannot be; RuntimeError: what a
            worker raised.
    """
    for name, value in (("copies", copies), ("workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1. Got {value}")
    ray, started = start_ray(workers)
    try:
        rows, id_column, image_column = read_checkpointed(ray, source, target)
        failures = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Failures).remote()
        pool = actor_pool(ray, device, workers)
        device = device or ("cuda" if pool["num_gpus"] else "cpu")
        arguments = (augment, copies, seed, prepare, device, id_column, image_column, failures)
        augmented = rows.map_batches(
            Worker, fn_constructor_args=arguments, batch_size=batch_size, batch_format="pyarrow", **pool
        )
        if id_column == "__id__":
            augmented.write_webdataset(absolute(target), encoder=webdataset_members)
        else:
            augmented.write_parquet(absolute(target))
        return ray.get(failures.get.remote())
    except ray.exceptions.RayTaskError as error:
        # Ray adds advice on its own settings to the message.
        raise RuntimeError(str(error.cause).partition("\nFailed to apply UDF")[0]) from error.cause
    finally:
        if started:
            ray.shutdown()


def read_checkpointed(ray: Any, source: str, target: str) -> tuple[Any, str, str]:
    """``read_rows``, without those that a run before this one finished, by the checkpoint under the target."""
    rows, id_column, image_column = read_rows(ray, absolute(source))
    rows.context.raise_original_map_exception = True
    rows.context.checkpoint_config = ray.data.checkpoint.CheckpointConfig(
        id_column,
        f"{absolute(target)}/.checkpoint",
        delete_checkpoint_on_success=False,
        checkpoint_filter_cls=arrow_filter(),
    )
    return rows, id_column, image_column


def actor_pool(ray: Any, device: str | None, workers: int | None) -> dict[str, Any]:
    """What map_batches is told of its workers: how many, and what each has for itself."""
    resources = ray.cluster_resources()
    gpus = 0 if device == "cpu" else int(resources.get("GPU", 0))
    size = workers or gpus or max(1, int(resources["CPU"]) - SPARE_CORES)
    return {"compute": ray.data.ActorPoolStrategy(size=size), "num_cpus": 1, "num_gpus": 1 if gpus else 0}


# Logical cores: besides the workers, reading, writing and the checkpoint's filter hold one each.
SPARE_CORES = 3


def start_ray(workers: int | None) -> tuple[Any, bool]:
    """Ray as it runs, at RAY_ADDRESS, or started here: on the loopback interface, no dashboard, no usage statistics."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "RAY_ADDRESS" not in os.environ:
        # Ray's switch, on every system, between an address that other machines reach and 127.0.0.1.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
        import ray.data.checkpoint
    except ImportError:
        raise ImportError('engine ray needs Ray Data: pip install "diffaug-transforms[ray]"') from None
    # Errors are raised here; Ray Data would also log their traces.
    for name in ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        return ray, False
    cores = (workers or os.cpu_count() or 1) + SPARE_CORES
    local: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": cores, "include_dashboard": False}
    ray.init(log_to_driver=False, logging_level=logging.WARNING, **local)
    return ray, True


def arrow_filter() -> type:
    """Ray's filter of finished rows, for all tables: its own fails at those of pandas, which read_webdataset gives."""
    from ray.data.block import BlockAccessor
    from ray.data.checkpoint import NumpyArrayBasedCheckpointFilter

    class ArrowFilter(NumpyArrayBasedCheckpointFilter):
        def filter_rows_for_block(self, block: Any) -> Any:
            return super().filter_rows_for_block(BlockAccessor.for_block(block).to_arrow())

    return ArrowFilter


class Failures:
    """An actor that collects lines from all workers, each line once."""

    def __init__(self) -> None:
        self.lines: set[str] = set()

    def add(self, lines: list[str]) -> None:
        self.lines.update(lines)

    def get(self) -> list[str]:
        return sorted(self.lines)


@dataclass
class Worker:
    """An actor with a network: takes a table of rows, gives back those whose image could be read, augmented."""

    augment: Any
    copies: int
    seed: int
    prepare: Prepare
    device: str
    id_column: str
    image_column: str
    failures: Any

    def __call__(self, table: Any) -> Any:
        import ray

        cells = [c if isinstance(c, dict) else {"bytes": c} for c in table[self.image_column].to_pylist()]
        names = [c.get("path") or str(i) for c, i in zip(cells, table[self.id_column].to_pylist())]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            images: list[Any] = list(
                pool.map(lambda c, name: read_image(name, self.prepare, c["bytes"] or b""), cells, names)
            )
            failed = [image for image in images if isinstance(image, str)]
            if failed:
                ray.get(self.failures.add.remote(failed))
            todo = [(i, n) for i, image in enumerate(images) if isinstance(image, Tensor) for n in range(self.copies)]
            files: dict[tuple[int, int], bytes] = {}
            for batch in same_size_batches(todo, [images[i].shape for i, _ in todo], len(table)):
                own = [copy_seed(self.seed, names[i], n)[0] for i, n in batch]
                seeds = [Seeds(draw=seed, network=seed) for seed in own]
                done = augment_batch(self.augment, [images[i] for i, _ in batch], seeds, self.device)
                formats = [file_format(cells[i]["bytes"]) for i, _ in batch]
                files.update(zip(batch, pool.map(encode_image, done, formats)))
        return replace_images(table, self.image_column, self.copies, files)
