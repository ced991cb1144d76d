"""How large the first picture of a source is, to choose a network before any copy is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .copies import Prepare
from .cost import SAMPLE, prepared_size
from .folders import HUB_ID, find_kind, first_pictures_in, is_parquet
from .local_shards import find_tars, first_photos
from .ray_rows import find_image_column
from .tables import first_pictures, load_splits, read_cell


def first_size(
    source: str, *, member: str | None = None, split: str | None = None, prepare: Prepare = None
) -> tuple[int, int] | None:
    """The two sides in pixels of the first picture that can be read, after ``prepare``.

    None if the source is a URI, or a file or folder that is not there, or none of its first pictures can be read.

    Args:
        source, member, split: as ``augment_folder`` and ``augment_shards`` take them.
    """
    pictures = [] if "://" in source else _first_pictures(source, member, split)
    return next((size for picture in pictures if (size := prepared_size(picture, prepare))), None)


def _first_pictures(source: str, member: str | None, split: str | None) -> Sequence[Path | bytes]:
    path = Path(source)
    if not path.exists():
        if not HUB_ID.fullmatch(source):
            return []
        rows = next(iter(load_splits(source, split).values()))
        return first_pictures([(path, rows)])[0]
    kind = find_kind(path)
    if kind == "folder":
        return first_pictures_in(path, SAMPLE)
    if kind == "shards":
        return first_photos(find_tars(path, path), member)[0]
    return _first_cells(path if path.is_file() else min(p for p in path.rglob("*") if is_parquet(p.name)))


def _first_cells(file: Path) -> list[bytes]:
    """The first pictures of a Parquet file, without a look at its other rows."""
    from pyarrow import parquet

    with parquet.ParquetFile(file) as table:
        column = find_image_column(table.schema_arrow)
        rows = next(table.iter_batches(SAMPLE, columns=[column]), None)
    cells = [] if rows is None else rows.column(0).to_pylist()
    return [read_cell(cell if isinstance(cell, dict) else {"bytes": cell}) for cell in cells if cell is not None]
