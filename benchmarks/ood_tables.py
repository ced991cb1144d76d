"""The tables of OOD detection, as Markdown, from the records of ood.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pivots import gains, mean_over_seeds, rows, select, with_diffaug
from records import Record

from diffaug_transforms.robustness import OOD_METHODS


def all_tables(records: Sequence[Record]) -> str:
    titles = {"near OOD": near_table, "far OOD": far_table, "FPR@95": fpr_table, "each set": sets_table}
    return "\n".join(f"**{title}**\n\n{table(records)}" for title, table in titles.items())


def near_table(records: Sequence[Record]) -> str:
    """AUROC of each method on each near set."""
    body = []
    for name in _sets(records, "near"):
        columns = [select(records, dataset=name, method=method, metric="auroc") for method in OOD_METHODS]
        body += [[name, *line] for line in _lines(columns)]
    return _note("AUROC", records, "near") + rows(["OOD set", "classifier", *OOD_METHODS], body)


def far_table(records: Sequence[Record]) -> str:
    """AUROC of each method, mean over the far sets."""
    columns = [select(records, distance="far", method=method, metric="auroc") for method in OOD_METHODS]
    return _note("Mean AUROC of the far sets", records, "far") + rows(["classifier", *OOD_METHODS], _lines(columns))


def fpr_table(records: Sequence[Record], methods: Sequence[str] = ("msp", "scale")) -> str:
    """FPR@95 on each near set, and its mean over the far ones."""
    groups = {name: {"dataset": name} for name in _sets(records, "near")} | {"far, mean": {"distance": "far"}}
    header, columns = ["classifier"], []
    for group, wanted in groups.items():
        for method in methods:
            header.append(f"{group}: {method}")
            columns.append(select(records, method=method, metric="fpr95", **wanted))
    return _note("FPR@95", records, "near", "far") + rows(header, _lines(columns))


def sets_table(records: Sequence[Record], methods: Sequence[str] = ("msp", "scale")) -> str:
    """Accuracy of the classifiers that know all classes on the images in distribution, and methods' AUROC by set."""
    names = _sets(records, "near", "far")
    most = max((r["classes"] for r in records), default=0)
    body = []
    for method in methods:
        columns = [select(records, metric="accuracy", classes=most)]
        columns += [select(records, dataset=name, method=method, metric="auroc") for name in names]
        body += [[method, *line] for line in _lines(columns)]
    note = _note("Accuracy in distribution, and AUROC by set,", records, "near", "far")
    return note + rows(["method", "classifier", "accuracy", *names], body)


def degraded_table(records: Sequence[Record]) -> str:
    """MSP's AUROC on sets as they are and degraded, from ood_degraded.py."""
    names = list(dict.fromkeys(r["degradation"] for r in records))
    body = []
    for dataset in dict.fromkeys(r["dataset"] for r in records):
        columns = [select(records, dataset=dataset, degradation=name) for name in names]
        body += [[dataset, *line] for line in _lines(columns)]
    return rows(["OOD set", "classifier", *names], body)


def _lines(columns: Sequence[Sequence[Record]]) -> list[list[str]]:
    """A line for each recipe, and under a recipe with DiffAug what it has more than the one without."""
    lines = []
    recipes = list(dict.fromkeys(r["recipe"] for column in columns for r in column))
    for recipe in recipes:
        lines.append([recipe, *(mean_over_seeds(select(column, recipe=recipe)) for column in columns)])
        for without in (name for name in recipes if with_diffaug(name) == recipe):
            pairs = ((select(column, recipe=without), select(column, recipe=recipe)) for column in columns)
            paired = (gains(*pair, "model", "seed", "dataset") for pair in pairs)
            lines.append([f"{without} to {recipe}", *(mean_over_seeds(gain, sign="+") for gain in paired)])
    return lines


def _sets(records: Sequence[Record], *distances: str) -> list[str]:
    return [name for d in distances for name in dict.fromkeys(r["dataset"] for r in select(records, distance=d))]


def _note(what: str, records: Sequence[Record], *distances: str) -> str:
    """What the numbers are, of how many seeds and images."""
    own = {name: select(records, dataset=name) for name in _sets(records, *distances)}
    seeds = _numbers(len({r["seed"] for r in of_set}) for of_set in own.values())
    sizes = [f"{name} " + " / ".join(_numbers(r[key] for r in own[name]) for key in ("n", "n_id")) for name in own]
    over = f"; mean ± standard error over {seeds} seeds" if seeds != "1" else ""
    return f"{what} in percent{over}. Images out of distribution / in it: {', '.join(sizes)}.\n\n"


def _numbers(values: Iterable[int]) -> str:
    return " or ".join(f"{value:,}" for value in sorted(set(values)))
