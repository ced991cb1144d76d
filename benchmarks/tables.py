"""Make the README's and the model card's tables from benchmarks/results/: no number in them is typed.

python benchmarks/tables.py            # rewrite what stands between <!-- table NAME --> and <!-- end -->
python benchmarks/tables.py --check    # exit 1 if a table is not what the results say
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from records import Record, read_records

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "diffaug_transforms" / "score" / "weights" / "cifar10" / "README.md")
MARKED = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.S)


def main() -> int:
    stale = []
    for page in PAGES:
        text = page.read_text()
        fresh = MARKED.sub(lambda m: m[1] + TABLES[m[2]]() + m[3], text)
        if fresh != text:
            stale.append(page)
            if "--check" not in sys.argv:
                page.write_text(fresh)
    print("\n".join(f"{'stale' if '--check' in sys.argv else 'rewrote'}: {page.relative_to(ROOT)}" for page in stale))
    return int("--check" in sys.argv and bool(stale))


def pick(records: Sequence[Record], **wanted: object) -> Record:
    """The one record with these values."""
    (found,) = [r for r in records if all(r[key] == value for key, value in wanted.items())]
    return found


def rows(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def eps_mse() -> str:
    records = read_records("denoising")
    body = []
    for mode in ("unconditional", "conditional"):
        r = pick(records, metric="eps_mse", mode=mode)
        body.append([mode, f"{r['value']:.4f} ± {r['standard_error']:.4f}", str(r["n"])])
    return rows(["branch", "eps-MSE, t uniform over 0…999 (mean ± standard error)", "images"], body)


def psnr() -> str:
    records = read_records("denoising")
    steps = sorted({r["timestep"] for r in records if r["metric"] == "psnr"})
    body = []
    for mode, name in (("unconditional", "denoised"), ("noisy input", "noisy input")):
        values = [pick(records, metric="psnr", mode=mode, timestep=t)["value"] for t in steps]
        body.append([name, *(f"{value:.1f}" for value in values)])
    return rows(["PSNR (dB) at t =", *map(str, steps)], body)


def throughput() -> str:
    body = []
    for r in read_records("throughput"):
        if r["metric"] == "time_ratio":
            body.append([r["method"], f"{r['value']:.2f}", f"{r['size']} px, batch {r['batch_size']}, {r['dtype']}"])
        elif r["metric"] == "matmul_share":
            body.append(["share of the matmul ceiling", f"{100 * r['value']:.0f} %", f"{r['dtype']}, {r['method']}"])
        elif r["metric"] == "import_seconds_over_torchvision":
            body.append(["import, seconds over torchvision's", f"{r['value']:.3f}", f"median of {r['n']}"])
    return rows(["ratio of times", "value", "setting"], body)


TABLES: dict[str, Callable[[], str]] = {"eps_mse": eps_mse, "psnr": psnr, "throughput": throughput}

if __name__ == "__main__":
    sys.exit(main())
