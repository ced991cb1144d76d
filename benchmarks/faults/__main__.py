"""Faults on purpose: kills, crashes, full disks and damaged files, and whether anything is lost or silently wrong.

    python -m benchmarks.faults                        # all parts, about ten minutes
    python -m benchmarks.faults kills --minutes 30     # one part, with more faults in more time
    python -m benchmarks.faults --tiny                 # a few faults of each kind, in less than a minute

Each part injects faults of its kind, runs the same command again, and compares the result with an undisturbed run's.
Runs are forked from this process, which has imported everything, so that hundreds of them take minutes. The numbers of
faults are fixed. A part that runs out of its share of the time injects fewer, and time that it leaves goes to the next.
Every record says how many faults were injected, how many survived, and how many were lost. Exit code 1 if any was lost.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from ..harness.options import positive_float, script_parser
from ..harness.records import RESULTS, Record, write_results
from . import crashes, damage, disks, downloads, kills, pairs, pictures
from .settings import Settings


class Part(NamedTuple):
    """A part, and its share of the time."""

    measure: Callable[[Settings], Iterator[Record]]
    share: float


PARTS = {
    "kills": Part(kills.measure, 0.35),
    "crashes": Part(crashes.measure, 0.25),
    "disks": Part(disks.measure, 0.2),
    "pairs": Part(pairs.measure, 0.08),
    "downloads": Part(downloads.measure, 0.04),
    "damage": Part(damage.measure, 0.04),
    "pictures": Part(pictures.measure, 0.04),
}


def parse_arguments() -> argparse.Namespace:
    parser = script_parser(__doc__, seed=0)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument(
        "--minutes", type=positive_float, default=10, help="for all parts together; default: %(default)s"
    )
    parser.add_argument("--tiny", action="store_true", help="a few faults of each kind")
    parser.add_argument("--output", type=Path, help="default: faults.json in results/; if tiny, in a temporary folder")
    args = parser.parse_args()
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"PART must be one of {', '.join(PARTS)}. Got {', '.join(unknown)}")
    args.parts = args.parts or list(PARTS)
    args.output = args.output or (Path(tempfile.gettempdir()) if args.tiny else RESULTS) / "faults.json"
    return args


def main() -> int:
    args = parse_arguments()
    gc.freeze()  # forked processes share what is there now
    torch.set_num_threads(1)  # a process with torch's threads must not be forked
    records: list[Record] = []
    last = time.monotonic() + 60 * args.minutes
    for i, part in enumerate(args.parts):
        began = time.monotonic()
        share = PARTS[part].share / sum(PARTS[later].share for later in args.parts[i:])
        end = began + max(0.0, last - began) * share
        with tempfile.TemporaryDirectory(prefix="diffaug-faults-") as folder:
            for record in PARTS[part].measure(Settings(Path(folder), end, args.tiny, args.seed)):
                records.append({"benchmark": "faults", **record, "seed": args.seed})
                print(describe(record), flush=True)
        print(f"{part}: {time.monotonic() - began:.0f} s")
    write_results("faults", records, args.output)
    lost = sum(record["value"] for record in records if record["metric"] == "lost or silently wrong")
    return int(lost > 0)


def describe(record: Record) -> str:
    return f"{record['part']}, {record['method']}: {record['metric']} {record['value']:g}"


if __name__ == "__main__":
    sys.exit(main())
