"""Many random calls, and how many were right, clear errors, or of a third kind.

python -m tests.properties --calls 20000 --seed 1     # writes benchmarks/results/reliability.json
python -m tests.properties --kind "DiffAug, samples" --calls 500 --output one.json
"""

from __future__ import annotations

import argparse
import re
import resource
import sys
import warnings
from collections import Counter
from itertools import count

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.harness.options import script_parser
from benchmarks.harness.records import RESULTS, write_results

from .all_calls import CALLS, PARTS
from .judge import CLEAR, RIGHT, THIRD, judge
from .values import Call

#: Hypothesis ends early once it has seen every call of a kind, so each kind gets several rounds.
ROUND = 250


def parse_arguments() -> argparse.Namespace:
    parser = script_parser(__doc__, seed=1, output=RESULTS / "reliability.json")
    parser.add_argument("--calls", type=int, default=20_000, help="at least so many, equally many of each kind")
    parser.add_argument("--kind", choices=sorted(CALLS), action="append", help="only this kind of call; repeatable")
    parser.add_argument("--memory", type=float, default=6, help="GiB that the process may take")
    return parser.parse_args()


def judge_many(strategy: st.SearchStrategy[Call], number: int, first_seed: int) -> tuple[Counter[str], list[str]]:
    """The verdicts on ``number`` calls: how many there are of each, and the first call of each distinct fault."""
    verdicts: Counter[str] = Counter()
    faults: dict[str, str] = {}

    def record(call: Call) -> None:
        if verdicts.total() == number:
            return
        verdict = judge(call)
        verdicts[verdict.kind] += 1
        if verdict.kind == THIRD:
            faults.setdefault(re.sub(r"\d+", "N", verdict.reason), f"{call}\n    {verdict.reason}")

    once = settings(
        max_examples=min(ROUND, number),
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    rounds = count(first_seed)
    while verdicts.total() < number:
        seed(next(rounds))(once(given(strategy)(record)))()
    return verdicts, list(faults.values())


def main() -> int:
    arguments = parse_arguments()
    limit = int(arguments.memory * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    warnings.simplefilter("ignore")
    kinds = arguments.kind or list(CALLS)
    number = -(-arguments.calls // len(kinds))
    records, totals = [], Counter()
    for kind in kinds:
        verdicts, faults = judge_many(CALLS[kind], number, 1000 * arguments.seed)
        totals += verdicts
        common = {"benchmark": "reliability", "part": PARTS[kind], "method": kind, "n": number, "seed": arguments.seed}
        records += [{**common, "metric": metric, "value": verdicts[metric]} for metric in (RIGHT, CLEAR, THIRD)]
        print("\n  ".join([f"{kind}: {dict(verdicts)}", *faults]), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    counts = ", ".join(f"{totals[kind]} {kind}" for kind in (RIGHT, CLEAR, THIRD))
    print(f"all: {counts}; at most {peak:.2f} GiB")
    write_results("reliability", records, arguments.output, module="tests.properties")
    return int(totals[THIRD] > 0)


if __name__ == "__main__":
    sys.exit(main())
