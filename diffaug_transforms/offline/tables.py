"""Hub data sets and Parquet files -> Parquet shards with augmented images, on ``datasets.map``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from ..files import writing_file
from .batches import Picture, name_of
from .copies import copy_seeds
from .cost import SAMPLE

#: Rows of a shard. All its images are in memory together.
SHARD_ROWS = 2000


def load_splits(source: str, split: str | None) -> dict[str, Any]:
    """The splits of a Hub data set or of Parquet files, by name."""
    try:
        import datasets
    except ImportError:
        raise ImportError('data sets need datasets: pip install "diffaug-transforms[train]"') from None
    try:
        if Path(source).is_file():
            found: Any = datasets.load_dataset("parquet", data_files={split or "train": source})
        elif Path(source).is_dir():
            found = datasets.load_dataset(source)
        else:
            name, _, configuration = source.partition(":")
            found = datasets.load_dataset(name, configuration or None)
    except (FileNotFoundError, ConnectionError) as error:
        raise OSError(
            f"SRC must be a folder, a .parquet or .tar file, or a Hub data set's id. Got {source}: {error}"
        ) from error
    if split is not None and split not in found:
        raise ValueError(f"split must be one of {', '.join(found)}. Got {split}")
    return {name: rows for name, rows in found.items() if split in (None, name)}


def describe_data(data: dict[str, Any]) -> str:
    """The start of a checksum of each split's columns, number of rows, and sizes of files."""
    parts = []
    for split, rows in data.items():
        files = (getattr(rows.info, "download_checksums", None) or {}).items()
        sizes = sorted((PurePosixPath(path).name, file.get("num_bytes")) for path, file in files)
        parts.append(f"{split} {len(rows)} {rows.features} {sizes}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def image_column(rows: Any) -> str:
    """The only column of images, or else the only column of bytes."""
    kinds = {name: getattr(feature, "dtype", type(feature).__name__) for name, feature in rows.features.items()}
    images = [name for name, feature in rows.features.items() if type(feature).__name__ == "Image"]
    found = images or [name for name, kind in kinds.items() if kind in ("binary", "large_binary")]
    found = found or [
        name for name, feature in rows.features.items() if isinstance(feature, dict) and "bytes" in feature
    ]
    if len(found) != 1:
        raise ValueError(f"SRC must have one image column, of bytes or of structs with bytes. Got {kinds}")
    return found[0]


def plan_shards(data: dict[str, Any], target: Path) -> tuple[list[tuple[Path, Any]], int]:
    """The shards that are missing, each as its file and its rows, and the number of rows that are there already."""
    missing, there = [], 0
    for split, rows in data.items():
        number = max(1, -(-len(rows) // SHARD_ROWS))
        for index in range(number):
            place = target / f"{split}-{index:05}-of-{number:05}.parquet"
            shard = rows.shard(number, index, contiguous=True)
            if place.is_file() and place.stat().st_size:
                there += len(shard)
            else:
                missing.append((place, shard))
    return missing, there


def first_pictures(shards: Sequence[tuple[Path, Any]]) -> tuple[list[bytes], int]:
    """Pictures of the first shard, and the number of rows of all."""
    from datasets import Image

    if not shards:
        return [], 0
    rows = shards[0][1]
    column = image_column(rows)
    first = rows.select(range(min(SAMPLE, len(rows)))).select_columns([column])
    if isinstance(rows.features[column], Image):
        first = first.cast_column(column, Image(decode=False))
    cells = [cell if isinstance(cell, dict) else {"bytes": cell} for cell in first[column][:] if cell is not None]
    return list(map(read_cell, cells)), sum(len(rows) for _, rows in shards)


def augment_tables(
    shards: Sequence[tuple[Path, Any]], there: int, work: Any, copies: int, seed: int, batch_size: int
) -> set[str]:
    """Write the shards. Returns a line for each image that cannot be read."""
    from tqdm.auto import tqdm

    skipped: set[str] = set()
    total = copies * (there + sum(len(rows) for _, rows in shards))
    with tqdm(total=total, initial=copies * there, unit="image", desc="diffaug augment") as bar, quiet():
        bar.set_postfix_str(f"{copies * there} were there already" if there else "")
        for place, rows in shards:
            done = augment_table(rows, image_column(rows), work, copies, seed, batch_size, skipped)
            with writing_file(place) as part:
                done.to_parquet(part)
            bar.update(copies * len(rows))
    return skipped


def augment_table(rows: Any, column: str, work: Any, copies: int, seed: int, batch_size: int, skipped: set[str]) -> Any:
    """A data set with augmented images. Rows whose image cannot be read are left out."""
    from datasets import Features, Image

    feature = rows.features[column]
    if isinstance(feature, Image):
        rows = rows.cast_column(column, Image(decode=False))
    is_struct = not hasattr(feature, "dtype") or isinstance(feature, Image)
    names = [column] if copies == 1 else [f"{column}_{copy}" for copy in range(copies)]
    features = {name: kind for name, kind in rows.features.items() if name != column}
    features |= dict.fromkeys(names, rows.features[column])

    def augment_rows(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        cells: list[Any] = [
            cell if isinstance(cell, dict) or cell is None else {"bytes": cell} for cell in batch.pop(column)
        ]
        found = {i: read_cell(cell) for i, cell in enumerate(cells) if cell is not None}
        ids = [name_of(data, cells[i].get("path")) for i, data in found.items()]
        pictures = [Picture(*one) for one in zip(found.values(), ids, copy_seeds(ids, copies, seed))]
        files = dict(zip(found, work(pictures)))
        skipped.update(line for line in files.values() if isinstance(line, str))
        kept = [i for i in range(len(cells)) if not isinstance(files.get(i), str)]
        result = {name: [values[i] for i in kept] for name, values in batch.items()}
        for copy, name in enumerate(names):
            new = [files[i][copy] if i in files else None for i in kept]
            result[name] = [
                data if data is None or not is_struct else {**cells[i], "bytes": data} for i, data in zip(kept, new)
            ]
        return result

    options: Any = {
        "batched": True,
        "batch_size": 4 * batch_size,
        "keep_in_memory": True,
        "load_from_cache_file": False,
    }
    done = rows.map(
        augment_rows, remove_columns=[column], features=Features(features), new_fingerprint="diffaug", **options
    )
    for name in names if isinstance(feature, Image) else []:
        done = done.cast_column(name, feature)
    return done


def read_cell(cell: dict[str, Any]) -> bytes:
    """The bytes of an image in a table, which may stand in a file. None of them if the file cannot be read."""
    if cell["bytes"] is not None or not cell.get("path"):
        return cell["bytes"] or b""
    try:
        return Path(cell["path"]).read_bytes()
    except OSError:
        return b""


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of ``datasets``, which would draw one for each shard."""
    import datasets

    were_there = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_there:
            datasets.enable_progress_bars()
