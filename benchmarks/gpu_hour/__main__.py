"""An hour on a GPU: what of the package's claims holds there, in one command and one file.

    python -m benchmarks.gpu_hour                                    # about an hour on the first GPU
    python -m benchmarks.gpu_hour --device cuda:1 --parts adm256     # one part on another GPU
    python -m benchmarks.gpu_hour --device cpu --tiny                # tries everything; its numbers mean nothing

Each part runs in a process of its own, with a limit on its time. So a part that fails, hangs or breaks the GPU's state
does not stop the next one. Every record is written as soon as it is measured: a stopped run loses nothing. Records with
an aim say whether it was held, and the last lines of the output list them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from ..harness.options import default_device, script_parser
from ..harness.records import RESULTS, Record, write_results
from . import adm256, autocast, ceiling, classifier, embedded, memory, suite, syncs
from .processes import records_of_process
from .report import describe, report
from .settings import Settings


class Part(NamedTuple):
    """A part of the hour and the most minutes that it may take."""

    measure: Callable[[Settings], Iterator[Record]]
    minutes: float


PARTS = {
    "syncs": Part(syncs.measure, 3),
    "ceiling": Part(ceiling.measure, 4),
    "adm256": Part(adm256.measure, 26),
    "classifier": Part(classifier.measure, 2),
    "embedded": Part(embedded.measure, 10),
    "memory": Part(memory.measure, 4),
    "autocast": Part(autocast.measure, 4),
    "suite": Part(suite.measure, 11),
}


def parse_arguments() -> argparse.Namespace:
    parser = script_parser(__doc__, network="cifar10", rounds=10, seed=0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--device", type=torch.device, default=default_device(), help="cuda, cuda:1, cpu")
    parser.add_argument("--tiny", action="store_true", help="the smallest settings, to try the script itself")
    parser.add_argument(
        "--output", type=Path, help="default: gpu_hour.json in results/; if tiny, in a temporary folder"
    )
    parser.add_argument("--only", choices=PARTS, help=argparse.SUPPRESS)  # a part's own process
    args = parser.parse_args()
    args.output = args.output or (Path(tempfile.gettempdir()) if args.tiny else RESULTS) / "gpu_hour.json"
    if args.device.type == "cuda":
        if not torch.cuda.is_available():
            parser.error("there is no CUDA GPU here: --device cpu --tiny tries the script")
        args.device = torch.device("cuda", args.device.index or 0)
        torch.cuda.set_device(args.device)  # the results name the current device
    elif not args.tiny:
        parser.error("a CPU takes days at full settings: add --tiny")
    return args


def main() -> None:
    args = parse_arguments()
    if args.only:
        measure_part(args)
        return
    records: list[Record] = []
    try:
        for part in (name for name in PARTS if name in args.parts):
            print(f"\n{part}: at most {PARTS[part].minutes} minutes")
            common = {"benchmark": "gpu_hour", "part": part, "device": str(args.device), "tiny": args.tiny}
            command = [sys.executable, "-m", "benchmarks.gpu_hour", *sys.argv[1:], "--only", part]
            for record in records_of_process(command, 60 * PARTS[part].minutes):
                records.append({**common, **record, "seed": args.seed})
                print(" ", describe(record), flush=True)
                write(records, args.output)
    finally:
        print(report(records))
        print(f"Wrote {args.output}" if records else "Wrote nothing.")


def measure_part(args: argparse.Namespace) -> None:
    """In a part's own process: one line of JSON for each record. The last one is how long the part took."""
    settings = Settings(args.device, args.network, min(args.rounds, 2) if args.tiny else args.rounds, args.tiny)
    torch.manual_seed(args.seed)
    start = time.perf_counter()
    try:
        for record in PARTS[args.only].measure(settings):
            print(json.dumps(record), flush=True)
    except Exception as error:
        traceback.print_exc()
        print(json.dumps(settings.failed("the part", error)), flush=True)
    print(json.dumps(settings.record("the part", "seconds", time.perf_counter() - start)), flush=True)


def write(records: list[Record], path: Path) -> None:
    """In silence, because it is done after each record."""
    with contextlib.redirect_stdout(io.StringIO()):
        write_results("gpu_hour", records, path)


if __name__ == "__main__":
    main()
