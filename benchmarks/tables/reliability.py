"""Table of tests/properties: random calls, and how many gave a right result, a clear error, or something else."""

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


TABLES = {"reliability": reliability}
