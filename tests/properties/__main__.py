"""Many random calls, and how many were right, clear errors, or of a third kind.

python -m tests.properties --calls 20000 --seed 1     # writes benchmarks/results/reliability.json
python -m tests.properties --kind "DiffAug, samples" --calls 500 --output /tmp/one.json
"""

from __future__ import annotations

import argparse
import re
import resource
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.harness.options import script_parser
from benchmarks.harness.records import RESULTS, write_results

from .all_calls import CALLS
from .judge import CLEAR, RIGHT, THIRD, judge
from .values import Call

#: Hypothesis stops early if it has seen every call of a kind, so each kind gets several rounds.
ROUND = 250


def parse_arguments() -> argparse.Namespace:
    parser = script_parser(__doc__, seed=1, output=RESULTS / "reliability.json")
    parser.add_argument("--calls", type=int, default=20_000, help="at least so many, over all kinds")
    parser.add_argument("--kind", choices=sorted(CALLS), action="append", help="only this kind of call; repeatable")
    parser.add_argument("--memory", type=float, default=6, help="GiB that the process may take")
    return parser.parse_args()


def judge_many(strategy: st.SearchStrategy[Call], number: int, first_seed: int) -> tuple[Counter[str], dict[str, str]]:
    """The verdicts on ``number`` calls: how many of each, and the first call of each distinct fault."""
    verdicts: Counter[str] = Counter()
    faults: dict[str, str] = {}

    def record(call: Call) -> None:
        if verdicts.total() < number:
            verdict = judge(call)
            verdicts[verdict.kind] += 1
            if verdict.kind == THIRD:
                faults.setdefault(re.sub(r"\d+", "N", verdict.reason), f"{call}\n    {verdict.reason}")

    options: dict[str, Any] = {"database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}
    while verdicts.total() < number:
        once = settings(max_examples=min(ROUND, number), phases=[Phase.generate], **options)
        seed(first_seed)(once(given(strategy)(record)))()
        first_seed += 1
    return verdicts, faults


def main() -> None:
    arguments = parse_arguments()
    limit = int(arguments.memory * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    warnings.simplefilter("ignore")
    kinds = arguments.kind or list(CALLS)
    each = -(-arguments.calls // len(kinds))
    records = []
    for name in kinds:
        started = time.perf_counter()
        verdicts, faults = judge_many(CALLS[name], each, arguments.seed * 1000)
        seconds = round(time.perf_counter() - started, 1)
        common = {"benchmark": "reliability", "method": name, "n": each, "seed": arguments.seed}
        for kind in (RIGHT, CLEAR, THIRD):
            records.append({**common, "metric": kind, "value": verdicts[kind], "seconds": seconds})
        print(f"{name}: {dict(verdicts)} in {seconds} s", flush=True)
        for fault in faults.values():
            print(f"  {fault}", flush=True)
    totals = {
        kind: sum(record["value"] for record in records if record["metric"] == kind) for kind in (RIGHT, CLEAR, THIRD)
    }
    print(f"all: {totals}, at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    write_results("reliability", records, Path(arguments.output))


if __name__ == "__main__":
    main()
