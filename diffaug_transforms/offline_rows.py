"""Image folders, Parquet files and WebDataset tar files as rows of Ray Data with an image column, and back.

A row has its image as a struct of bytes and path, as in Hugging Face datasets (or as bytes alone, from Parquet files
that hold them so), and an id that is unique and the same in every run, by which finished rows are checkpointed.
"""

from __future__ import annotations

import io
import os
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import PIL.Image
from torchvision.datasets.folder import IMG_EXTENSIONS


def absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


def read_rows(ray: Any, source: str) -> tuple[Any, str, str]:
    """The data set; its column of ids, unique and the same in every run; its image column."""
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
        return ray.data.read_webdataset(source, decoder=partial(webdataset_row, root)), "__id__", "image"
    if suffixes.isdisjoint(IMG_EXTENSIONS):
        raise OSError(f"there are no images, .parquet or .tar files under {source}")
    extensions = [suffix[1:] for suffix in IMG_EXTENSIONS]
    files = ray.data.read_binary_files(source, include_paths=True, file_extensions=extensions)
    return files.map_batches(folder_rows, fn_args=(root,), batch_format="pyarrow"), "path", "image"


def find_image_column(schema: Any) -> str:
    """The only column of structs with bytes, or the only one of bytes. ValueError where there is none."""
    kinds = dict(zip(schema.names, map(str, schema.types)))
    structs = [name for name, kind in kinds.items() if kind.startswith("struct<") and "bytes: " in kind]
    found = structs or [name for name, kind in kinds.items() if kind in ("binary", "large_binary")]
    if len(found) != 1:
        raise ValueError(f"SRC must have one image column, of bytes or of structs with bytes. Got {kinds}")
    return found[0]


def folder_rows(table: Any, root: str) -> Any:
    """Files as an image column with paths relative to the folder, and the name of the first folder as label."""
    import pyarrow as pa

    names = [PurePosixPath(path).relative_to(root) for path in table["path"].to_pylist()]
    images = [{"bytes": data, "path": str(name)} for data, name in zip(table["bytes"].to_pylist(), names)]
    labels = pa.array([name.parts[0] if len(name.parts) > 1 else None for name in names], pa.string())
    return pa.table({"image": images, "path": table["path"], "label": labels})


def webdataset_row(root: str, sample: dict[str, Any]) -> dict[str, Any]:
    """A sample as a row: its picture as the column ``image``, and an id with the name of its tar file."""
    member = next((name for name in sample if f".{name}".lower().endswith(IMG_EXTENSIONS)), "")
    image = {"bytes": sample.pop(member, b""), "path": f"{sample['__key__']}.{member}"}
    return {**sample, "image": image, "__id__": f"{os.path.relpath(sample['__url__'], root)}/{sample['__key__']}"}


def webdataset_members(row: dict[str, Any]) -> dict[str, Any]:
    """A row as a sample: ``image`` is the member ``jpg`` again, ``image_0`` the member ``0.jpg``."""
    members = {}
    for name, cell in row.items():
        picture = isinstance(cell, dict)
        suffix = PurePosixPath(cell["path"]).suffix if picture else ""
        members[f"{name[6:]}{suffix}".lstrip(".") if picture else name] = cell["bytes"] if picture else cell
    return members


def replace_images(table: Any, column: str, copies: int, files: dict[tuple[int, int], bytes]) -> Any:
    """The rows that have files, by row and copy, with one column per copy in place of the images."""
    import pyarrow as pa

    rows = sorted({i for i, _ in files})
    table = table.take(pa.array(rows, pa.int64()))
    cells, kind = table[column].to_pylist(), table.schema.field(column).type
    table = table.drop_columns(column)
    for n in range(copies):
        new = [{**c, "bytes": files[i, n]} if isinstance(c, dict) else files[i, n] for i, c in zip(rows, cells)]
        table = table.append_column(column if copies == 1 else f"{column}_{n}", pa.array(new, kind))
    return table


def file_format(data: bytes) -> str:
    """Pillow's name of the format to write an image in: that of the image; PNG where Pillow can only read that."""
    with PIL.Image.open(io.BytesIO(data)) as file:
        return str(file.format) if file.format in PIL.Image.SAVE else "PNG"
