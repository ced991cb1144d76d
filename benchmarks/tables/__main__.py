"""Make the tables of the README, the model card and the documentation from benchmarks/results/: none is typed.

python -m benchmarks.tables            # rewrite what stands between <!-- table NAME --> and <!-- end -->
python -m benchmarks.tables --check    # exit 1 if a table is not what the results say
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from ..harness.options import script_parser
from . import (
    adaptation,
    certificates,
    cost,
    evening,
    gradients,
    guidance,
    noise,
    ood,
    photos,
    reliability,
    training,
    which,
)

ROOT = Path(__file__).parent.parent.parent
CARDS = ROOT / "diffaug_transforms" / "assets" / "networks"
MARKED = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.S)
PARTS = (training, cost, adaptation, photos, noise, certificates, ood, gradients, guidance, reliability, which, evening)
TABLES: dict[str, Callable[[], str]] = {name: make for part in PARTS for name, make in part.TABLES.items()}


def pages() -> list[Path]:
    """The README, the networks' cards and the documentation's sources; not what Sphinx built or copied there."""
    docs = sorted((ROOT / "docs").rglob("*.md"))
    own = [page for page in docs if not {"_build", "gallery"} & set(page.relative_to(ROOT).parts)]
    return [ROOT / "README.md", *sorted(CARDS.glob("*/README.md")), *own]


def parse_arguments() -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a table is stale")
    return parser.parse_args()


def main() -> int:
    check = parse_arguments().check
    stale = []
    for page in pages():
        text = page.read_text()
        fresh = MARKED.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)
        if fresh != text:
            stale.append(page)
            if not check:
                page.write_text(fresh)
    print("\n".join(f"{'stale' if check else 'rewrote'}: {page.relative_to(ROOT)}" for page in stale))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
