"""What held and what did not, as lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from ..harness.records import Record

WORDS = {True: "held", False: "NOT HELD", None: "not judged"}


def report(records: Sequence[Record]) -> str:
    """One line for each record with an aim and for each failure, and their numbers."""
    judged = [record for record in records if "held" in record]
    failures = [record for record in records if record["metric"] == "failed"]
    lines = ["", *map(line_of, judged)]
    lines += [f"failed      {record['part']}: {describe(record)}" for record in failures]
    counts = [f"{sum(record['held'] is held for record in judged)} {word.lower()}" for held, word in WORDS.items()]
    lines += ["", f"{', '.join(counts)}, {len(failures)} failed."]
    if any(record["tiny"] or record["device"] == "cpu" for record in records):
        lines.append("Tiny settings or no GPU: this run shows that the script works. Its numbers mean nothing.")
    return "\n".join(lines)


def line_of(record: Record) -> str:
    aim = f"at most {record['at_most']:g}" if "at_most" in record else f"at least {record['at_least']:g}"
    return f"{WORDS[record['held']]:<11} {record['part']}: {describe(record)}; aim: {aim}"


def describe(record: Record) -> str:
    """The record in a few words."""
    batch = f", batch {record['batch_size']}" if "batch_size" in record else ""
    measured = record.get("error") or f"{record['metric']} {record['value']:.6g}"
    return f"{record['method']}{batch}: {measured}"
