"""Print the largest difference from each source's own numbers, as a table: ``python -m tests.fidelity``."""

from __future__ import annotations

from . import MODULES


def table() -> str:
    """A line for each source and what stands before the comma in its cases."""
    lines = ["| source | what | cases | largest difference |", "|---|---|---|---|"]
    for module in MODULES:
        differences: dict[str, list[float]] = {}
        for case, ours, source in module.comparisons():
            difference = (ours.double() - source.double()).abs().max().item()
            differences.setdefault(case.partition(",")[0], []).append(difference)
        for what, values in differences.items():
            unit = f" {module.UNIT}" if hasattr(module, "UNIT") and max(values) else ""
            lines.append(f"| {module.SOURCE} | {what} | {len(values)} | {max(values):.1g}{unit} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
