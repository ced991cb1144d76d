"""Write the largest difference from each source's own numbers into docs/fidelity.md: ``python -m tests.fidelity``."""

from __future__ import annotations

import re
from pathlib import Path

from . import MODULES

PAGE = Path(__file__).parent.parent.parent / "docs" / "fidelity.md"
MARKED = re.compile(r"(<!-- fidelity -->\n).*?(<!-- end -->)", re.S)


def table() -> str:
    """A line for each source and each of its formulas."""
    lines = ["| source | formula | cases | largest difference |", "|---|---|---|---|"]
    for module in MODULES:
        differences: dict[str, list[float]] = {}
        for case, ours, source in module.comparisons():
            difference = (ours.double() - source.double()).abs().max().item()
            differences.setdefault(module.FORMULAS[case.partition(",")[0]], []).append(difference)
        for formula, values in differences.items():
            unit = f" {module.UNIT}" if hasattr(module, "UNIT") and max(values) else ""
            largest = f"{max(values):.1g}".replace("e-0", "e-")
            lines.append(f"| {module.SOURCE} | {formula} | {len(values)} | {largest}{unit} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    PAGE.write_text(MARKED.sub(lambda found: found[1] + table() + found[2], PAGE.read_text()))


if __name__ == "__main__":
    main()
