"""Tables of tidy records with pandas: choosing records, means over seeds, gains by DiffAug, Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import mean, stdev
from typing import Any

import pandas as pd

from .records import Record, read_records

Cell = Callable[[pd.DataFrame], str]
#: From a metric's name to how its value is written.
Formats = dict[str, Callable[[float], str]]


def frame(records: str | Iterable[Record], **wanted: Any) -> pd.DataFrame:
    """The records of a script, or these records, that have the wanted values.

    Args:
        records: a name in ``results/``, or records.
        wanted: a value for each field, or a list of the allowed ones.
    """
    every = read_records(records) if isinstance(records, str) else records
    allowed = {key: value if isinstance(value, list | tuple) else [value] for key, value in wanted.items()}
    return pd.DataFrame([r for r in every if all(r.get(key) in values for key, values in allowed.items())])


def table(
    records: pd.DataFrame,
    rows: Sequence[str],
    column: str,
    cell: Cell | None = None,
    header: Sequence[str] | None = None,
    across: Iterable[Any] | None = None,
) -> str:
    """A Markdown table: one line for each value of the fields ``rows``, one column for each value of ``column``.

    Args:
        records: lines and columns come in the order in which they appear here.
        cell: from the records of one cell to its text. Default: ``over_seeds``.
        header: titles of the first columns. Default: ``rows``.
        across: the columns in their order. Default: all.
    """
    groups = records.groupby([*rows, column], sort=False, dropna=False)
    cells = {key: (cell or over_seeds)(group) for key, group in groups}
    across = list(records[column].unique() if across is None else across)
    lines = dict.fromkeys(records[[*rows]].itertuples(index=False, name=None))
    body = [[*line, *(cells.get((*line, value), "") for value in across)] for line in lines]
    return markdown(
        [*(header or rows), *(f"{value:g}" if isinstance(value, float) else value for value in across)], body
    )


def metrics_table(records: pd.DataFrame, row: str, header: Sequence[str], formats: Formats) -> str:
    """A Markdown table with a line for each value of the field ``row``, and a column for each metric in ``formats``."""
    body = []
    for name, own in records.groupby(row, sort=False):
        value = dict(zip(own.metric, own.value))
        body.append([name, *(text(value[metric]) for metric, text in formats.items())])
    return markdown(header, body)


def markdown(header: Iterable[Any], body: Iterable[Iterable[Any]]) -> str:
    head = [*map(str, header)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in (head, ["---"] * len(head), *body))


def columns(parts: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One data frame whose field ``column`` tells which part a record is from. A record may be in several parts."""
    return pd.concat([part.assign(column=name) for name, part in parts.items()], ignore_index=True)


def mean_and_error(values: Sequence[float], digits: int = 1, sign: str = "") -> str:
    """The mean, with its standard error if there is more than one value. "" for no value."""
    if not len(values):
        return ""
    error = f" ± {stdev(values) / len(values) ** 0.5:.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):{sign}.{digits}f}{error}"


def over_seeds(records: pd.DataFrame, digits: int = 1) -> str:
    """Mean over seeds of the mean over everything else."""
    values = [mean(own.value.tolist()) for _, own in records.groupby("seed", sort=False)]
    return mean_and_error(values, digits, sign(records))


def with_error(digits: int, sign: str = "") -> Cell:
    """A cell of one record, with the standard error that it has."""
    return lambda one: f"{one.value.item():{sign}.{digits}f} ± {one.standard_error.item():.{digits}f}"


def rounded(digits: int) -> Cell:
    """A cell with the mean of its records."""
    return lambda records: f"{mean(records.value.tolist()):.{digits}f}"


def sign(records: pd.DataFrame) -> str:
    """Gains are written with their sign."""
    return "+" if "gain" in records and records.gain.eq(True).any() else ""


def with_diffaug(recipe: str) -> str:
    """The name of the recipe that adds DiffAug to this one."""
    return recipe.replace("baseline", "diffaug") if "baseline" in recipe else f"{recipe}+diffaug"


def difference(without: pd.DataFrame, reached: pd.DataFrame, *same: str) -> pd.DataFrame:
    """What records in ``reached`` have more than those in ``without`` that agree in the fields ``same``."""
    both = without.merge(reached[[*same, "value"]], on=[*same], suffixes=("_without", ""))
    return both.assign(value=both.value - both.value_without, gain=True).drop(columns="value_without")


def gains(records: pd.DataFrame, *same: str) -> pd.DataFrame:
    """What each recipe gains by DiffAug, paired by the fields ``same``; the recipe is called "without to with"."""
    key = records.recipe.map(with_diffaug)
    found = difference(records.assign(pair=key), records.assign(pair=records.recipe), "pair", *same)
    return found.assign(recipe=found.recipe + " to " + found.pair)


def with_gains(records: pd.DataFrame, *same: str) -> pd.DataFrame:
    """The records, and each gain by DiffAug behind the recipe that has it."""
    found = gains(records, *same)
    recipes = list(records.recipe.unique())
    order = {recipe: place for place, recipe in enumerate(recipes)}
    order |= {name: order[pair] + 0.5 for name, pair in zip(found.recipe, found.pair)}
    return in_order(pd.concat([records, found], ignore_index=True), recipe=sorted(order, key=order.__getitem__))


def in_order(records: pd.DataFrame, **orders: Iterable[Any]) -> pd.DataFrame:
    """The records that have one of these values in each of these fields, sorted by them, the first field first."""
    for field, values in reversed(orders.items()):
        places = {value: place for place, value in enumerate(values)}
        chosen = records[records[field].isin(list(places))]
        records = chosen.sort_values(field, key=lambda own, places=places: own.map(places), kind="stable")
    return records
