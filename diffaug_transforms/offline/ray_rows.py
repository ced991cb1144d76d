"""Image folders, Parquet files and WebDataset shards -> rows of a Ray data set.

An image is a struct of bytes and path, or bytes alone. Each row has an id that is the same in every run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from .copies import Seeds
from .folders import check_apart, find_kind, find_pictures, is_parquet, is_picture, is_tar, kind_of
from .shards import Sample, members_with_copies, read_samples

#: A column with the seed of each copy's corrupted network. Workers remove it.
NETWORKS = "__networks__"
#: Files of a folder that one task reads, at most.
FILES_A_TASK = 1024
#: Tables of about so many bytes or rows are made at once.
TABLE_BYTES, TABLE_ROWS = 2**26, 256


class Rows(NamedTuple):
    """A Ray data set, what it was made from, its columns of ids and images, what the record holds about it, and lines
    for files that cannot be used.
    """

    data: Any
    kind: str
    id_column: str
    image_column: str
    record: dict[str, Any]
    skipped: Sequence[str] = ()


def read_rows(
    ray: Any,
    source: str,
    target: str = "",
    member: str | None = None,
    seeds: Callable[[Iterable[str]], Iterable[list[Seeds]]] | None = None,
) -> Rows:
    """The rows of a source.

    Args:
        source, target: absolute paths or URIs.
        member: which member of a WebDataset sample is the photo (see ``shards.find_photo``).
        seeds: for an image folder, the seeds of the copies of all images. None: each worker makes them.
    """
    local = "://" not in source
    if local and target and "://" not in target and Path(source).is_dir():
        check_apart(Path(source), Path(target))
    kind, system, files = list_files(source)
    sizes = hashlib.sha256(repr([(file.name, file.size) for file in files]).encode()).hexdigest()[:16]
    if kind == "table":
        rows = ray.data.read_parquet(source, include_row_hash=True)
        return Rows(rows, kind, "row_hash", find_image_column(rows.schema()), {"data": sizes})
    if kind == "shards":
        reads = [partial(read_tar, system, file.path, file.name, member) for file in files]
        return Rows(from_reads(ray, lambda _: reads), kind, "__id__", "image", {"member": member, "data": sizes})
    names = [(file.path, file.name) for file in files]
    skipped: list[str] = []
    if local:
        paths, skipped = find_pictures(Path(source), Path(target) if target and "://" not in target else None)
        names = [(f"{source}/{path.as_posix()}", path.as_posix()) for path in paths]
    if not names:
        raise OSError(f"there are no images, .parquet or .tar files under {source}. {' '.join(skipped)}".strip())
    networks = [[pair.network for pair in pairs] for pairs in seeds(name for _, name in names)] if seeds else None

    def reads_of(parallelism: int) -> list[Callable[[], Iterator[Any]]]:
        size = max(1, min(FILES_A_TASK, -(-len(names) // max(1, parallelism))))
        parts = [slice(start, start + size) for start in range(0, len(names), size)]
        return [partial(read_files, system, names[part], networks and networks[part]) for part in parts]

    return Rows(from_reads(ray, reads_of), kind, "path", "image", {}, skipped)


class File(NamedTuple):
    """A file of a source: its path, its path relative to the source, and its size in bytes."""

    path: str
    name: str
    size: int


def list_files(source: str) -> tuple[str, Any, list[File]]:
    """What a source holds (see ``find_kind``), its file system, and the files of that kind.

    Images of a local folder are left out, because ``find_pictures`` finds them.
    """
    from pyarrow import fs

    if "://" in source:
        system, root = fs.FileSystem.from_uri(source)
        infos = [system.get_file_info(root)]
        if not infos[0].is_file:
            infos = system.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=True))
        files = [File(info.path, _relative(info.path, root), info.size) for info in infos if info.is_file]
        files = [file for file in files if not any(part.startswith(".") for part in file.name.split("/"))]
        kind = kind_of([file.name for file in files], source)
    else:
        kind, system, root = find_kind(Path(source)), fs.LocalFileSystem(), source
        paths = [Path(source)] if Path(source).is_file() else list(Path(source).rglob("*")) if kind != "folder" else []
        files = [File(str(path), _relative(str(path), root), path.stat().st_size) for path in paths if path.is_file()]
    test = {"table": is_parquet, "shards": is_tar, "folder": is_picture}[kind]
    return kind, system, sorted(file for file in files if test(PurePosixPath(file.name).name))


def _relative(path: str, root: str) -> str:
    """A path relative to its source, or its name if it is the source."""
    return PurePosixPath(path).name if path == root else PurePosixPath(path).relative_to(root).as_posix()


def from_reads(ray: Any, reads_of: Callable[[int], Sequence[Callable[[], Iterator[Any]]]]) -> Any:
    """A Ray data set from functions that each read a part of it. ``reads_of`` gets the wanted number of parts."""
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    class Source(Datasource):
        def estimate_inmemory_data_size(self) -> None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            unknown: dict[str, Any] = {"num_rows": None, "size_bytes": None, "exec_stats": None, "input_files": None}
            return [ReadTask(read, BlockMetadata(**unknown)) for read in reads_of(parallelism)]

    return ray.data.read_datasource(Source())


def read_files(system: Any, files: Sequence[tuple[str, str]], networks: Sequence[list[int]] | None) -> Iterator[Any]:
    """Tables of image files with the columns image, path, and label: the name of the first folder."""
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    for i, (path, name) in enumerate(files):
        try:
            with system.open_input_file(path) as file:
                data = file.read()
        except OSError:
            data = b""  # the worker says that it is no picture
        parts = name.split("/")
        row = {"image": {"bytes": data, "path": name}, "path": path, "label": parts[0] if len(parts) > 1 else None}
        rows.append(row if networks is None else {**row, NETWORKS: networks[i]})
        if is_full(sum(len(row["image"]["bytes"]) for row in rows), len(rows)) or i == len(files) - 1:
            kinds = {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})}
            kinds |= {"path": pa.string(), "label": pa.string()}
            kinds |= {} if networks is None else {NETWORKS: pa.list_(pa.int64())}
            yield pa.Table.from_pylist(rows, pa.schema(kinds))
            rows = []


def read_tar(system: Any, path: str, name: str, member: str | None) -> Iterator[Any]:
    """Tables of the samples of a tar file. The photo is the column image, its own member is empty."""
    import pyarrow as pa

    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    text, texts, contents = pa.string(), pa.list_(pa.string()), pa.list_(pa.large_binary())
    kinds = {"__id__": text, "__key__": text, "photo": text, "image": image, "names": texts, "members": contents}
    rows: list[dict[str, Any]] = []
    held = 0
    with system.open_input_stream(path) as file:
        for sample in read_samples(file, name, member):
            members = dict(sample.members)
            held += sum(map(len, members.values()))
            photo = members[sample.photo] if sample.photo is not None else None
            row: dict[str, Any] = {"__id__": f"{name}/{sample.key}", "__key__": sample.key, "photo": sample.photo}
            row["image"] = None if photo is None else {"bytes": photo, "path": f"{sample.key}.{sample.photo}"}
            row["names"] = list(members)
            row["members"] = [b"" if other == sample.photo else data for other, data in members.items()]
            rows.append(row)
            if is_full(held, len(rows)):
                yield pa.Table.from_pylist(rows, pa.schema(kinds))
                rows, held = [], 0
    if rows:
        yield pa.Table.from_pylist(rows, pa.schema(kinds))


def is_full(held: int, rows: int) -> bool:
    """Whether a table is large enough."""
    return held >= TABLE_BYTES or rows >= TABLE_ROWS


def row_to_sample(row: dict[str, Any]) -> dict[str, Any]:
    """A row as a WebDataset sample: its key and its members."""
    sample = Sample(row["__key__"], list(zip(row["names"], row["members"])), row["photo"])
    images = [cell["bytes"] for name, cell in row.items() if name.startswith("image") and cell is not None]
    return {"__key__": sample.key, **dict(members_with_copies(sample, images))}


def find_image_column(schema: Any) -> str:
    """The only column of structs with bytes, or else the only column of bytes."""
    kinds = dict(zip(schema.names, map(str, schema.types)))
    structs = [name for name, kind in kinds.items() if kind.startswith("struct<") and "bytes: " in kind]
    found = structs or [name for name, kind in kinds.items() if kind in ("binary", "large_binary")]
    if len(found) != 1:
        raise ValueError(f"SRC must have one image column, of bytes or of structs with bytes. Got {kinds}")
    return found[0]
