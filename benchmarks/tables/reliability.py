"""Tables of tests/properties: random calls and damaged files, and what came of them."""

from __future__ import annotations

import pandas as pd

from ..harness.tables import frame, table

#: Metric -> title. The last column is for what must not happen.
OUTCOMES = {"right": "right result", "clear error": "clear error", "third kind": "anything else"}


def reliability() -> str:
    """The number of calls by outcome, for each part of the package and for all of them."""
    records = frame("reliability")
    records = pd.concat([records, records.assign(part="all")], ignore_index=True)
    records = records.assign(outcome=records.metric.map(OUTCOMES))
    return table(records, ["part"], "outcome", lambda own: f"{own.value.sum():,}", header=["random calls of"])


def damaged_files() -> str:
    """The number of damaged files by outcome, for each kind of file and of damage."""
    titles = {"right": "loads as before", "clear error": "clear error", "read as an edited JSON file": "read as edited"}
    records = frame("damaged_files")
    records = records.assign(outcome=records.metric.map({**titles, "third kind": "anything else"}))
    return table(records, ["part", "method"], "outcome", lambda own: f"{own.value.sum():,}", header=["file", "damage"])


TABLES = {"reliability": reliability, "damaged_files": damaged_files}
