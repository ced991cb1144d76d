"""Augment images on Ray Data, on one machine or many: `diffaug augment --engine ray` runs it.

    SRC --read--> rows with an image column --one network per worker--> the same rows, augmented --> shards under DST
    image folder, Parquet or WebDataset                                 Parquet, or WebDataset if SRC was WebDataset

Ray Data restarts workers that die and repeats their unfinished work. Finished rows are recorded under
``DST/.checkpoint`` by id, in one commit with their shard. So a run that was killed resumes, and the output holds every
image once.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..arguments import as_number, as_path, check_flags
from ..transforms import DeepAugment
from .batches import Picture, augment_pictures, name_of
from .cluster import plan_workers, start_ray
from .copies import Prepare, Seeds, check_options, copy_seeds
from .overlap import threads
from .ray_rows import NETWORKS, Rows, read_rows, row_to_sample
from .record import claim_shards, describe_options


def augment_dataset(
    source: str,
    target: str,
    augment: Any,
    *,
    copies: int = 1,
    seed: int = 0,
    redraw: float = 1.0,
    batch_size: int = 64,
    prepare: Prepare = None,
    device: str | None = None,
    workers: int | None = None,
    gpus_per_worker: float = 1,
    member: str | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write the rows of ``source`` with augmented images as shards under ``target``.

    The draws are those of ``augment_folder``, and so are the record of the options and the bytes of the copies, up to
    rounding in batches of other sizes. An image without a path is known by its bytes.

    Args:
        source: an image folder, Parquet files, or WebDataset tar files. For a folder, the output has the columns image,
            path and label (the name of the first folder). Parquet files need one image column: structs with bytes and
            path, as in Hugging Face datasets, or bytes. Other columns and members are kept.
        target: where the shards go. Both may be paths or URIs that pyarrow knows (s3://, gs://); every node of the
            cluster must reach them.
        augment: DiffAug, DeepAugment or Purify. Each worker has its own network.
        copies: copies per image. With more than one, the columns (members) are named NAME_0, NAME_1, ...
        redraw: as in ``augment_folder``, for image folders; elsewhere every copy has its own corrupted network.
        seed, batch_size, prepare, overwrite: as in ``augment_folder``.
        device: where the networks run, cpu or cuda. None: a GPU for each worker if the cluster has GPUs, else the CPU.
        workers: number of workers. None: one per GPU of the cluster, or one per core. Never more than fit.
        gpus_per_worker: less than 1 lets workers share a GPU.
        member: which member of a WebDataset sample is the photo, by name or pattern, such as "jpg" or "*.jpg". None:
            the only picture that has no word before its ending.

    Returns:
        One line for each image that could not be read. All other images were written.

    Raises:
        ImportError: Ray is missing. ValueError, OSError: an argument or the source is wrong, or ``target`` holds copies
            made with other options. Also whatever a worker raised.

    Example:
        >>> augment_dataset("s3://data/train", "s3://data/train_diffaug", DiffAug("cifar10"))  # doctest: +SKIP
        []
    """
    check_options(augment, copies, seed, batch_size, prepare)
    redraw = as_number("redraw", redraw, at_least=0, at_most=1)
    check_flags(overwrite=overwrite)
    for name, path in (("source", source), ("target", target)):
        as_path(name, path)
    source, target = (path if "://" in path else os.path.abspath(path) for path in map(str, (source, target)))
    plan_workers({"CPU": 1e6, "GPU": 1e6}, workers, device, gpus_per_worker)  # bad arguments fail before Ray starts
    ray, started = start_ray(workers)
    try:
        plan = plan_workers(ray.cluster_resources(), workers, device, gpus_per_worker)
        if plan.note:
            warnings.warn(plan.note, stacklevel=2)
        seeds = partial(copy_seeds, copies=copies, seed=seed, redraw=redraw) if redraw < 1 else None
        rows = read_rows(ray, source, target, member, seeds)
        more: dict[str, Any] = {"redraw": redraw} if isinstance(augment, DeepAugment) else {}
        more |= rows.record
        real = source if "://" in source else os.path.realpath(source)
        claim_shards(target, describe_options(real, augment, prepare, copies, seed, **more), overwrite)
        set_checkpoint(ray, rows, f"{target}/.checkpoint")
        failures = ray.util.queue.Queue(actor_options={"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1})
        options = (augment, copies, seed, prepare, plan.device, rows.id_column, rows.image_column, failures)
        augmented = rows.data.map_batches(
            Worker,
            fn_constructor_args=options,
            batch_size=batch_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=plan.number),
            num_cpus=1,
            num_gpus=plan.gpus,
        )
        if rows.kind == "shards":
            augmented.write_webdataset(target, encoder=row_to_sample)
        else:
            augmented.write_parquet(target)
        return sorted({*rows.skipped, *failures.get_nowait_batch(failures.qsize())})
    except ray.exceptions.RayTaskError as error:
        # The worker's own exception, without the advice about Ray's settings that Ray adds to its message.
        error.cause.args = (str(error.cause).partition("\nFailed to apply UDF")[0],)
        raise error.cause from error
    finally:
        if started:
            ray.shutdown()


def set_checkpoint(ray: Any, rows: Rows, folder: str) -> None:
    """Record the ids of finished rows in a folder, and leave out those that are there."""
    options: dict[str, Any] = {"delete_checkpoint_on_success": False}
    config = ray.data.checkpoint.CheckpointConfig(rows.id_column, folder, **options)
    rows.data.context.raise_original_map_exception = True
    rows.data.context.checkpoint_config = config


@dataclass
class Worker:
    """An actor with a network. Takes a table of rows, returns the rows whose image could be read, augmented.

    Rows without an image are kept as they are.
    """

    augment: Any
    copies: int
    seed: int
    prepare: Prepare
    device: str
    id_column: str
    image_column: str
    failures: Any

    def __call__(self, table: Any) -> Any:
        import pyarrow as pa

        column = table[self.image_column]
        cells: list[Any] = [
            cell if isinstance(cell, dict) or cell is None else {"bytes": cell} for cell in column.to_pylist()
        ]
        with_image = [i for i, cell in enumerate(cells) if cell is not None]
        pictures = self.pictures(table, cells, with_image)
        with threads() as pool:
            results = augment_pictures(self.augment, pictures, self.prepare, len(table), self.device, pool)
        if lines := [result for result in results if isinstance(result, str)]:
            self.failures.put_nowait_batch(lines)
        files = {i: result for i, result in zip(with_image, results) if not isinstance(result, str)}
        rows = [i for i, cell in enumerate(cells) if cell is None or i in files]
        kept = table.take(pa.array(rows, pa.int64())).drop_columns(self.image_column)
        if NETWORKS in kept.column_names:
            kept = kept.drop_columns(NETWORKS)
        is_struct = pa.types.is_struct(column.type)
        for copy in range(self.copies):
            new: list[Any] = [None if i not in files else files[i][copy] for i in rows]
            if is_struct:
                new = [None if data is None else {**cells[i], "bytes": data} for i, data in zip(rows, new)]
            name = self.image_column if self.copies == 1 else f"{self.image_column}_{copy}"
            kept = kept.append_column(name, pa.array(new, column.type))
        return kept

    def pictures(self, table: Any, cells: list[Any], rows: list[int]) -> list[Picture]:
        """The images of some rows of a table, with their seeds."""
        names = [name_of(cells[i]["bytes"] or b"", cells[i].get("path")) for i in rows]
        seeds = list(copy_seeds(names, self.copies, self.seed))
        if NETWORKS in table.column_names:
            networks = table[NETWORKS].to_pylist()
            seeds = [
                [Seeds(pair.draw, network) for pair, network in zip(pairs, networks[i])]
                for i, pairs in zip(rows, seeds)
            ]
        return [Picture(cells[i]["bytes"] or b"", name, pairs) for i, name, pairs in zip(rows, names, seeds)]
