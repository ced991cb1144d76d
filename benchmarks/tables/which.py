"""Tables of the page "Which one should I use?": what each method costs, what it brings, and where it loses."""

from __future__ import annotations

from statistics import mean

import pandas as pd

from diffaug_transforms.robustness.evaluation.report import ALL

from ..harness.tables import columns, difference, frame, in_order, over_seeds, sign, table
from .adaptation import MODES, cifar10
from .certificates import best_sigma
from .training import FAMILIES, FAMILY, MODEL

#: The parts of a set of test images, each a column.
PARTS = ("clean", *FAMILIES, "all 15")
#: Recipes, as the table calls them.
TRAINED = {"diffaug": "DiffAug", "augmix": "AugMix", "augmix+diffaug": "AugMix and DiffAug"}
RADII = (0.25, 0.5, 1.0)


def which() -> str:
    """The accuracy of each classifier alone, and behind it what each method brings more."""
    records = cifar10()
    records = records[(records.model == MODEL) & records.timesteps.isin(["", "network"])]
    without, trained = (records[records.recipe == recipe] for recipe in ("baseline", "diffaug"))
    gains = [training_gain(without, records[records.recipe == recipe], name) for recipe, name in TRAINED.items()]
    few = frame("covariate_shift_photos-c_dda")
    blocks = {
        "CIFAR-10-C, trained without DiffAug": pd.concat([methods(without), *gains]),
        "CIFAR-10-C, trained with DiffAug": methods(trained),
        "photos": methods(frame("covariate_shift_photos-c")),
        f"{few.n.iloc[0]} of the photos": methods(few),
    }
    every = pd.concat([own.assign(images=images) for images, own in blocks.items()], ignore_index=True)
    return table(every, ["images", "method", "calls"], "part", value_and_error, across=PARTS)


def methods(records: pd.DataFrame) -> pd.DataFrame:
    """The accuracies alone and the gains of the methods, with the fields method, calls and part."""
    records = in_order(records, mode=MODES)
    written = " at t = " + records.timesteps.str.replace(",", ", ")
    timesteps = records.timesteps.map({"": "", "network": ""}).fillna(written)
    records = records.assign(method=records["mode"].map({**MODES, "default": "alone"}) + timesteps)
    calls = records[(records.metric == "network_calls") & (records.corruption != "clean")].groupby("method").value
    records = records.assign(
        calls=records.method.map(calls.mean().map("{:.2g}".format)),
        part=records.corruption.map({"clean": "clean", ALL: "all 15", **FAMILY}),
        gain=records.metric == "gain",
    )
    return records[(records.metric == "gain") | ((records.metric == "accuracy") & (records["mode"] == "default"))]


def training_gain(without: pd.DataFrame, trained: pd.DataFrame, name: str) -> pd.DataFrame:
    """What classifiers of another recipe have more, alone. It costs nothing at test time."""
    alone = (methods(records).query("method == 'alone'") for records in (without, trained))
    return difference(*alone, "seed", "corruption").assign(method=f"{name} in training")


def value_and_error(own: pd.DataFrame) -> str:
    """The mean over seeds with its standard error.

    Several models have seen the same images. Then the error is the mean of all their standard errors over images. The
    error of the mean is at most that.
    """
    if own.model.nunique() == 1:
        return over_seeds(own)
    return f"{mean(own.value.tolist()):{sign(own)}.1f} ± {mean(own.standard_error.tolist()):.1f}"


def certified() -> str:
    """Certified accuracy with the best sigma at each radius, and the network calls of one certificate."""
    records = frame("certify", recipe=["baseline", "diffaug"])
    records = records.assign(calls=records.draws.map("{:,}".format))
    best = {
        f"radius {radius:g}": pd.concat([best_sigma(own, radius) for _, own in records.groupby("recipe")])
        for radius in RADII
    }
    return table(columns(best), ["recipe", "calls"], "column", header=["trained with", "draws"])


TABLES = {"which": which, "which_certified": certified}
