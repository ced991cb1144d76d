"""Tables of ood: how well images of other classes are told from a classifier's own."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from diffaug_transforms.robustness import OOD_METHODS

from ..harness.tables import frame, in_order, table, with_gains

METHODS = ("msp", "scale")
#: OpenOOD's names. Its ASH is ASH-B.
OPENOOD_METHODS = {"msp": "MSP", "react": "ReAct", "ash-b": "ASH", "scale": "SCALE"}
OPENOOD_METRICS = {"auroc": "AUROC", "fpr95": "FPR95"}
#: Fields that a gain by DiffAug is paired by.
PAIRED = ("model", "seed", "dataset", "method")


def ood_near(records: pd.DataFrame) -> str:
    """AUROC of each method on each near set."""
    near = records[(records.distance == "near") & (records.metric == "auroc")]
    near = with_gains(near, *PAIRED)
    near = in_order(near, dataset=_sets(records, "near"), recipe=near.recipe.unique())
    cells = table(near, ["dataset", "recipe"], "method", header=["OOD set", "classifier"], across=OOD_METHODS)
    return _note("AUROC", records, "near") + cells


def ood_sets(records: pd.DataFrame) -> str:
    """Accuracy of the classifiers that know all classes on the images in distribution, and methods' AUROC by set."""
    accuracy = records[(records.metric == "accuracy") & (records.classes == records.classes.max())]
    names = _sets(records, "near", "far")
    own = records[(records.metric == "auroc") & records.method.isin(METHODS) & records.dataset.isin(names)]
    parts = [accuracy.assign(method=method, column="accuracy") for method in METHODS]
    every = with_gains(pd.concat([*parts, own.assign(column=own.dataset)], ignore_index=True), *PAIRED)
    every = in_order(every, method=METHODS, recipe=every.recipe.unique())
    note = _note("Accuracy in distribution, and AUROC by set,", records, "near", "far")
    return note + table(
        every, ["method", "recipe"], "column", header=["method", "classifier"], across=["accuracy", *names]
    )


def openood(records: pd.DataFrame) -> str:
    """AUROC and FPR95 of OpenOOD's methods: near sets, and far sets but for noise, which OpenOOD does not have."""
    sets = [name for name in _sets(records, "near", "far") if not name.endswith("noise")]
    own = records[records.dataset.isin(sets) & records.metric.isin(list(OPENOOD_METRICS))]
    own = in_order(own, method=OPENOOD_METHODS)
    own = own.assign(column=own.distance + ", " + own.metric.map(OPENOOD_METRICS))
    every = with_gains(own, *PAIRED, "metric", "column")
    every = in_order(every, method=OPENOOD_METHODS, recipe=every.recipe.unique())
    across = [f"{distance}, {name}" for distance in ("near", "far") for name in OPENOOD_METRICS.values()]
    cells = table(
        every.assign(method=every.method.map(OPENOOD_METHODS)),
        ["method", "recipe"],
        "column",
        header=["method", "classifier"],
        across=[column for column in across if column in set(own.column)],
    )
    return _note("AUROC (higher is better) and FPR95 (lower is better)", own, "near", "far") + cells


def ood_degraded(records: pd.DataFrame) -> str:
    """MSP's AUROC on sets as they are and degraded."""
    across, names = records.degradation.unique(), records.dataset.unique()
    every = with_gains(records, "model", "seed", "dataset", "degradation")
    every = in_order(every, dataset=names, recipe=every.recipe.unique())
    return table(every, ["dataset", "recipe"], "degradation", header=["OOD set", "classifier"], across=across)


def all_tables(records: pd.DataFrame) -> str:
    titles = {"near OOD": ood_near, "each set": ood_sets}
    return "\n".join(f"**{title}**\n\n{make(records)}" for title, make in titles.items())


def _sets(records: pd.DataFrame, *distances: str) -> list[str]:
    return [name for distance in distances for name in records[records.distance == distance].dataset.unique()]


def _note(what: str, records: pd.DataFrame, *distances: str) -> str:
    """What the numbers are, and of how many seeds and images."""
    own = {name: records[records.dataset == name] for name in _sets(records, *distances)}
    seeds = _numbers(part.seed.nunique() for part in own.values())
    sizes = [f"{name} {_numbers(part.n)} / {_numbers(part.n_id)}" for name, part in own.items()]
    over = f"; mean ± standard error over {seeds} seeds" if seeds != "1" else ""
    return f"{what} in percent{over}. Images out of distribution / in it: {', '.join(sizes)}.\n\n"


def _numbers(values: Iterable[int]) -> str:
    return " or ".join(f"{value:,}" for value in sorted(set(values)))


TABLES = {
    "ood_near": lambda: ood_near(frame("ood")),
    "ood_sets": lambda: ood_sets(frame("ood")),
    "openood": lambda: openood(frame("ood_openood")),
    "ood_degraded": lambda: ood_degraded(frame("ood_degraded")),
}
