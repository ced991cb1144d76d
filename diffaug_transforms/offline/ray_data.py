"""Augment images on Ray Data, on one machine or many: `diffaug augment --engine ray` runs it.

    SRC --read--> rows with an image column --one network per worker--> the same rows, augmented --> shards under DST
    image folder, Parquet or WebDataset                                 Parquet, or WebDataset if SRC was WebDataset

Ray Data restarts workers that die and repeats their unfinished work. Finished rows are recorded under
``DST/.checkpoint`` by id, in one commit with their shard. So a run that was killed resumes, and the output holds every
image once.
"""

from __future__ import annotations

import io
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import PIL.Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from ..arguments import as_optional_integer, as_path
from .copies import Prepare, Seeds, augment_images, check_options, copy_seed, encode_image, read_image

#: Logical cores besides those of the workers: reading, writing and the filter of finished rows hold one each.
SPARE_CORES = 3


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

    The draws are those of ``augment_folder``. An image without a path is known by its row. DeepAugment corrupts a
    network for every copy. Images keep their file format.

    Args:
        source: an image folder, Parquet files, or WebDataset tar files. For a folder, the output has the columns image,
            path and label (the name of the first folder). Parquet files need one image column: structs with bytes and
            path, as in Hugging Face datasets, or bytes. Other columns and members are kept.
        target: where the shards go. Both may be paths or URIs that pyarrow knows (s3://, gs://); every node of the
            cluster must reach them.
        augment: DiffAug or DeepAugment. Each worker has its own network.
        copies: copies per image. With more than one, the columns (members) are named NAME_0, NAME_1, ...
        seed, batch_size, prepare: as in ``augment_folder``.
        device: where the networks run. None: a GPU for each worker if the cluster has GPUs, else the CPU.
        workers: number of workers. None: one per GPU of the cluster, or one per core.

    Returns:
        One line for each image that could not be read. All other images were written.

    Raises:
        ImportError: Ray is missing. ValueError, OSError: an argument or the source is wrong. Also whatever a worker
            raised.

    Example:
        >>> augment_dataset("s3://data/train", "s3://data/train_diffaug", DiffAug("cifar10"))  # doctest: +SKIP
        []
    """
    check_options(augment, copies, seed, batch_size, prepare)
    workers = as_optional_integer("workers", workers, 1)
    for name, path in (("source", source), ("target", target)):
        as_path(name, path)
    source, target = (path if "://" in path else os.path.abspath(path) for path in map(str, (source, target)))
    ray, started = start_ray(workers)
    try:
        rows, id_column, image_column = read_rows(ray, source)
        rows.context.raise_original_map_exception = True
        options: dict[str, Any] = {"delete_checkpoint_on_success": False, "checkpoint_filter_cls": _arrow_filter(ray)}
        config = ray.data.checkpoint.CheckpointConfig(id_column, f"{target}/.checkpoint", **options)
        rows.context.checkpoint_config = config
        failures = ray.util.queue.Queue(actor_options={"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1})
        resources = ray.cluster_resources()
        gpus = 0 if device == "cpu" else int(resources.get("GPU", 0))
        device = device or ("cuda" if gpus else "cpu")
        augmented = rows.map_batches(
            Worker,
            fn_constructor_args=(augment, copies, seed, prepare, device, id_column, image_column, failures),
            batch_size=batch_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers or gpus or max(1, int(resources["CPU"]) - SPARE_CORES)),
            num_cpus=1,
            num_gpus=1 if gpus else 0,
        )
        if id_column == "__id__":
            augmented.write_webdataset(target, encoder=_row_to_sample)
        else:
            augmented.write_parquet(target)
        return sorted(set(failures.get_nowait_batch(failures.qsize())))
    except ray.exceptions.RayTaskError as error:
        # The worker's own exception, without the advice about Ray's settings that Ray adds to its message.
        error.cause.args = (str(error.cause).partition("\nFailed to apply UDF")[0],)
        raise error.cause from error
    finally:
        if started:
            ray.shutdown()


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


def _arrow_filter(ray: Any) -> type:
    """Ray's filter of finished rows, also for pandas tables: read_webdataset makes them, and Ray's own fails there."""

    class ArrowFilter(ray.data.checkpoint.NumpyArrayBasedCheckpointFilter):
        def filter_rows_for_block(self, block: Any) -> Any:
            return super().filter_rows_for_block(ray.data.block.BlockAccessor.for_block(block).to_arrow())

    return ArrowFilter


@dataclass
class Worker:
    """An actor with a network. Takes a table of rows, returns the rows whose image could be read, augmented."""

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

        cells = [c if isinstance(c, dict) else {"bytes": c} for c in table[self.image_column].to_pylist()]
        files = [cell["bytes"] or b"" for cell in cells]
        names = [cell.get("path") or str(i) for cell, i in zip(cells, table[self.id_column].to_pylist())]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            read: list[Any] = list(pool.map(partial(read_image, prepare=self.prepare), files, names))
            if lines := [line for line in read if isinstance(line, str)]:
                self.failures.put_nowait_batch(lines)
            rows = [i for i, image in enumerate(read) if isinstance(image, Tensor)]
            images, formats = [read[i] for i in rows], [file_format(files[i]) for i in rows]
            kept = table.take(pa.array(rows, pa.int64()))
            column, kept = kept[self.image_column], kept.drop_columns(self.image_column)
            for copy in range(self.copies):
                draws = [copy_seed(self.seed, names[i], copy)[0] for i in rows]
                seeds = [Seeds(draw=draw, network=draw) for draw in draws]
                new = column.to_pylist()
                for batch, done in augment_images(self.augment, images, seeds, len(table), self.device):
                    for k, data in zip(batch, pool.map(encode_image, done, [formats[k] for k in batch])):
                        new[k] = {**new[k], "bytes": data} if isinstance(new[k], dict) else data
                name = self.image_column if self.copies == 1 else f"{self.image_column}_{copy}"
                kept = kept.append_column(name, pa.array(new, column.type))
        return kept


def file_format(data: bytes) -> str:
    """Pillow's name of an image's file format, or PNG if Pillow can read that format but not write it."""
    with PIL.Image.open(io.BytesIO(data)) as file:
        return str(file.format) if file.format in PIL.Image.SAVE else "PNG"


def read_rows(ray: Any, source: str) -> tuple[Any, str, str]:
    """The data set, the name of its id column, and the name of its image column.

    An image is a struct of bytes and path, or bytes alone. Ids are unique and the same in every run.
    """
    from pyarrow import fs

    filesystem, root = fs.FileSystem.from_uri(source)
    infos = [filesystem.get_file_info(root)]
    if not infos[0].is_file:
        infos = filesystem.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=True))
    suffixes = {PurePosixPath(info.path).suffix.lower() for info in infos if info.is_file}
    if ".parquet" in suffixes:
        rows = ray.data.read_parquet(source, include_row_hash=True)
        return rows, "row_hash", find_image_column(rows.schema())
    if ".tar" in suffixes:
        return ray.data.read_webdataset(source, decoder=partial(_sample_to_row, root)), "__id__", "image"
    if suffixes.isdisjoint(IMG_EXTENSIONS):
        raise OSError(f"there are no images, .parquet or .tar files under {source}")
    extensions = [suffix[1:] for suffix in IMG_EXTENSIONS]
    files = ray.data.read_binary_files(source, include_paths=True, file_extensions=extensions)
    return files.map_batches(_files_to_rows, fn_args=(root,), batch_format="pyarrow"), "path", "image"


def find_image_column(schema: Any) -> str:
    """The only column of structs with bytes, or else the only column of bytes."""
    kinds = dict(zip(schema.names, map(str, schema.types)))
    structs = [name for name, kind in kinds.items() if kind.startswith("struct<") and "bytes: " in kind]
    found = structs or [name for name, kind in kinds.items() if kind in ("binary", "large_binary")]
    if len(found) != 1:
        raise ValueError(f"SRC must have one image column, of bytes or of structs with bytes. Got {kinds}")
    return found[0]


def _files_to_rows(table: Any, root: str) -> Any:
    """Files of an image folder as rows. The label is the name of the first folder."""
    import pyarrow as pa

    names = [PurePosixPath(path).relative_to(root) for path in table["path"].to_pylist()]
    images = [{"bytes": data, "path": str(name)} for data, name in zip(table["bytes"].to_pylist(), names)]
    labels = pa.array([name.parts[0] if len(name.parts) > 1 else None for name in names], pa.string())
    return pa.table({"image": images, "path": table["path"], "label": labels})


def _sample_to_row(root: str, sample: dict[str, Any]) -> dict[str, Any]:
    """A WebDataset sample as a row. Its picture becomes the column ``image``; its id holds the name of its tar file."""
    member = next((name for name in sample if f".{name}".lower().endswith(IMG_EXTENSIONS)), "")
    image = {"bytes": sample.pop(member, b""), "path": f"{sample['__key__']}.{member}"}
    return {**sample, "image": image, "__id__": f"{os.path.relpath(sample['__url__'], root)}/{sample['__key__']}"}


def _row_to_sample(row: dict[str, Any]) -> dict[str, Any]:
    """A row as a WebDataset sample. The column ``image`` becomes the member ``jpg``, ``image_0`` becomes ``0.jpg``."""
    sample = {}
    for name, cell in row.items():
        if isinstance(cell, dict):
            sample[f"{name[6:]}{PurePosixPath(cell['path']).suffix}".lstrip(".")] = cell["bytes"]
        else:
            sample[name] = cell
    return sample
