"""Tables of covariate_shift on photos: EfficientNet-Lite under corruptions, with the network ``photos``.

Accuracies and gains have the records' standard errors over photos. The records of single corruptions do not tell how
the errors on one photo go together. So a mean over them has the mean of their errors: its own error is at most that.
"""

from __future__ import annotations

from statistics import mean

import pandas as pd

from diffaug_transforms.robustness import CORRUPTIONS
from diffaug_transforms.robustness.evaluation.report import ALL

from ..harness.tables import columns, frame, in_order, rounded, table, with_error
from .adaptation import MODES
from .training import FAMILIES, FAMILY

#: At severity 5 and at 3; then severity 5 with DDA, on fewer photos.
STRONG, MEDIUM, DDA = "covariate_shift_photos-c", "covariate_shift_photos-c_3", "covariate_shift_photos-c_dda"
#: Titles of the choices of timesteps. The network matches them to the photos' 224 pixels, so they are the paper's.
TIMESTEPS = {"": "", "network": "paper's", "0,25,50,100": "0, 25, 50, 100"}
WITHOUT_TIMESTEPS = ("default", "purify", "purify-se")


def read_runs(*runs: str) -> pd.DataFrame:
    """The runs' records in the tables' order, with titles, each with its run's severity and its kind of corruption."""
    every = pd.concat([frame(run).assign(severity=lambda own: own.severity.max()) for run in runs], ignore_index=True)
    every = every.assign(
        S=every.timesteps.mask(every["mode"].isin(WITHOUT_TIMESTEPS), "").map(TIMESTEPS),
        kind=every.corruption.map(FAMILY).fillna(every.corruption),
        mode=every["mode"].replace(MODES),
    )
    modes = [*MODES.values(), "view"]
    return in_order(every, severity=(5, 3), model=sorted(set(every.model)), mode=modes, S=TIMESTEPS.values())


def accuracy_and_calls(*runs: str) -> str:
    """A line for each severity, classifier, mode and S: corrupted and clean photos, gains, and calls a corrupted photo.

    Anytime DE has DE's answers, so it only has a column for its calls.
    """
    every = read_runs(*runs)
    every = every[every["mode"] != "view"]
    is_anytime, is_clean, is_mean = every["mode"] == "anytime DE", every.corruption == "clean", every.corruption == ALL
    accuracy, gain, calls = (every.metric == metric for metric in ("accuracy", "gain", "network_calls"))
    parts = {
        "corrupted": every[is_mean & accuracy & ~is_anytime],
        "gain": every[is_mean & gain & ~is_anytime],
        "clean": every[is_clean & accuracy & ~is_anytime],
        "clean, gain": every[is_clean & gain & ~is_anytime],
        "calls": every[calls & ~is_clean & ~is_anytime],
        "calls, anytime": every[calls & ~is_clean & is_anytime].assign(mode="DE"),
    }
    parts = {title: part for title, part in parts.items() if len(part)}

    def cell(own: pd.DataFrame) -> str:
        metric = own.metric.iloc[0]
        return rounded(1)(own) if metric == "network_calls" else with_error(1, "+" if metric == "gain" else "")(own)

    rows = ["severity", "model", "mode", "S"]
    return _note(every) + table(columns(parts), rows, "column", cell, ["severity", "classifier", "mode", "S"], parts)


def gains(rows: str, *runs: str) -> str:
    """Accuracy over all classifiers with the gain over Default: a line for each ``rows``, "kind" or "corruption"."""
    every = read_runs(*runs)
    every = every[every["mode"].isin(["Default", "DE", "Purify"]) & (every.corruption != ALL)]
    every = every.assign(way=[", ".join(filter(None, pair)) for pair in zip(every["mode"], every.S)])
    ways = list(every.way.unique())
    every = in_order(every, severity=(5, 3), kind=["clean", *FAMILIES], corruption=["clean", *CORRUPTIONS])

    def cell(own: pd.DataFrame) -> str:
        gain = own[own.metric == "gain"]
        behind = f" ({mean(gain.value):+.1f} ± {mean(gain.standard_error):.1f})" if len(gain) else ""
        return rounded(1)(own[own.metric == "accuracy"]) + behind

    return _note(every) + table(every, ["severity", rows], "way", cell, across=ways)


def over_t(*runs: str) -> str:
    """Accuracy of single views over all classifiers, a line for each t; t = 0 is the photo itself."""
    every = read_runs(*runs)
    views = every[(every["mode"] == "view") & (every.metric == "accuracy")].astype({"timestep": int})
    views = in_order(views, severity=(5, 3), timestep=sorted(set(views.timestep)))

    def cell(own: pd.DataFrame) -> str:
        return f"{mean(own.value):.1f} ± {mean(own.standard_error):.1f}"

    across = ["clean", *FAMILIES]
    return _note(views) + table(views, ["severity", "timestep"], "kind", cell, ["severity", "t"], across)


def _note(records: pd.DataFrame) -> str:
    (number,) = records[records.metric == "accuracy"].n.unique()
    return f"{number:.0f} photos under each corruption, the same in every cell. ± is over photos.\n\n"


TABLES = {
    "photos_shift": lambda: accuracy_and_calls(STRONG, MEDIUM),
    "photos_dda": lambda: accuracy_and_calls(DDA),
    "photos_by_kind": lambda: gains("kind", STRONG, MEDIUM),
    "photos_by_corruption": lambda: gains("corruption", STRONG),
    "photos_over_t": lambda: over_t(STRONG, MEDIUM),
}
