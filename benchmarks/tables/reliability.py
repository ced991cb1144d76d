"""Tables of tests/properties and of faults: random calls, damaged files, and faults on purpose, and their outcomes."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from ..harness.records import Record
from ..harness.tables import frame, table

#: Metric -> title. The last column is for what must not happen.
OUTCOMES = {"right": "right result", "clear error": "clear error", "third kind": "anything else"}

#: Part of faults -> title.
FAULTS = {
    "kills": "SIGKILL, SIGINT, SIGTERM at random moments",
    "crashes": "an error, or the end of the process, before each change of a file",
    "disks": "a disk that is full or read-only",
    "pairs": "two runs on one folder at once",
    "downloads": "downloads that break off",
    "damage": "files of networks and classifiers cut short or changed",
    "pictures": "damaged and hostile pictures",
}


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


def faults_of(records: str | Iterable[Record], *parts: str) -> str:
    """The number of faults in these parts by outcome, for each run or file, and each kind of fault."""
    own = frame(records, part=list(parts))
    names = own.method.str.split("; ", expand=True)
    own = own.assign(**{"run or file": names[0], "fault": names[1]})
    header = ["run or file", "fault"]
    return table(own, header, "metric", lambda one: f"{one.value.sum():,}", header=header)


def faults() -> str:
    """The number of faults by outcome, for each part and for all of them."""
    records = frame("faults")
    records = pd.concat([records.assign(kind=records.part.map(FAULTS)), records.assign(kind="all")], ignore_index=True)
    return table(records, ["kind"], "metric", lambda one: f"{one.value.sum():,}", header=["faults"])


TABLES = {
    "reliability": reliability,
    "damaged_files": damaged_files,
    "faults": faults,
    "fault_kills": lambda: faults_of("faults", "kills"),
    "fault_crashes": lambda: faults_of("faults", "crashes"),
    "fault_disks": lambda: faults_of("faults", "disks"),
    "fault_pairs": lambda: faults_of("faults", "pairs"),
    "fault_files": lambda: faults_of("faults", "downloads", "damage", "pictures"),
}
