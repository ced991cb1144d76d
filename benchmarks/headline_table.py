"""The README's main table, as Markdown: what each recipe brings, from the records of three benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

from certify_tables import certified_cell
from pivots import mean_over_seeds, rows, select
from records import Record

RECIPES = ("baseline", "diffaug", "augmix", "augmix+diffaug")
RADIUS = 1.0


def headline_table(trained: Sequence[Record], certified: Sequence[Record], detected: Sequence[Record]) -> str:
    """Records of train_cifar10.py, certify.py and ood.py; each cell is what their own tables say."""
    body = []
    for recipe in RECIPES:
        own = select(trained, recipe=recipe)
        clean, corrupted = select(own, dataset="cifar10"), select(own, dataset="cifar10-c")
        near = select(detected, recipe=recipe, distance="near", method="msp", metric="auroc")
        accuracies = [select(clean, mode="default"), select(corrupted, mode="default"), select(corrupted, mode="de")]
        certificates = certified_cell(certified, recipe, RADIUS)
        body.append([recipe, *map(mean_over_seeds, accuracies), certificates, mean_over_seeds(near)])
    header = ("clean", "corrupted", "corrupted, ensemble", f"certified at radius {RADIUS:g}", "unknown images, AUROC")
    return rows(["trained with", *header], body)
