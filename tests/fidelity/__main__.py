"""Print the largest difference of each comparison: ``python -m tests.fidelity``."""

from . import MODULES


def main() -> None:
    print("| source | case | largest difference |\n|---|---|---|")
    for module in MODULES:
        for case, ours, source in module.comparisons():
            print(f"| {module.SOURCE} | {case} | {(ours.double() - source.double()).abs().max().item():.1e} |")


if __name__ == "__main__":
    main()
