"""Tables of docs/evening.md: what each command took, and what it brought."""

from __future__ import annotations

import pandas as pd

from diffaug_transforms.robustness.evaluation.report import ALL

from ..harness.tables import columns, frame, in_order, markdown, table, with_error

#: The fine-tuned classifiers, by the folder of their evaluation.
CLASSIFIERS = {
    "own": "fine-tuned",
    "without_diffaug": "trained on without DiffAug",
    "with_diffaug": "trained on with DiffAug",
}


def steps() -> str:
    """The minutes of each step."""
    records = frame("evening", metric="seconds")
    body = [[step, f"{seconds / 60:.1f}"] for step, seconds in zip(records.step, records.value)]
    return markdown(["step", "minutes"], [*body, ["all", f"{records.value.sum() / 60:.1f}"]])


def accuracy() -> str:
    """Accuracy of each classifier on clean and corrupted photos, alone and behind Purify, and what Purify gains."""
    records = in_order(frame("evening", step=list(CLASSIFIERS)), step=CLASSIFIERS).replace({"step": CLASSIFIERS})
    number = records[records.metric == "accuracy"].n.iloc[0]
    cells = table(columns(_parts(records)), ["step"], "column", _cell, header=["classifier"])
    return f"{number} photos, the same for all.\n\n{cells}"


def _cell(one: pd.DataFrame) -> str:
    return with_error(1, "+" if one.metric.item() == "gain" else "")(one)


def _parts(records: pd.DataFrame) -> dict[str, pd.DataFrame]:
    found = {}
    for title, corruption in {"clean": "clean", "corrupted": ALL}.items():
        own = records[records.corruption == corruption]
        found[f"{title}, alone"] = own[(own.metric == "accuracy") & (own["mode"] == "default")]
        found[f"{title}, Purify"] = own[(own.metric == "accuracy") & (own["mode"] == "purify")]
        found[f"{title}, Purify's gain"] = own[own.metric == "gain"]
    return found


TABLES = {"evening_steps": steps, "evening_accuracy": accuracy}
