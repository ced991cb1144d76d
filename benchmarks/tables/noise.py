"""Tables of noise_level and of Purify: how well noise is measured, and what removing it brings."""

from __future__ import annotations

import pandas as pd

from diffaug_transforms.robustness.evaluation.report import ALL

from ..harness.tables import frame, in_order, markdown, mean_and_error, rounded, table
from .adaptation import MODES, cifar10
from .training import FAMILIES

METHODS = ("estimate_sigma", "Haar median", "scikit-image")


def noise_level() -> str:
    """Mean estimate of each method on Gaussian noise, by what was added, and the root mean square error."""
    return _levels(frame("noise_level", noise="Gaussian"), ["dataset", "sigma"], ["images", "sigma added"])


def other_noise() -> str:
    """The same for noise that is not Gaussian."""
    records = frame("noise_level").dropna(subset="noise")
    return _levels(records[records.noise != "Gaussian"], ["dataset", "noise", "sigma"], ["images", "noise", "sigma"])


def _levels(records: pd.DataFrame, rows: list[str], header: list[str]) -> str:
    body = []
    for key, own in records.groupby(rows, sort=False):
        value = own.set_index(["method", "metric"]).value
        cells = (
            f"{value[method, 'estimated_sigma']:.3f} (± {value[method, 'root_mean_square_error']:.3f})"
            for method in METHODS
        )
        names = (f"{name:g}" if isinstance(name, float) else name for name in key)
        body.append([*names, f"{own.noise_rms.iloc[0]:.3f}", *cells])
    return markdown([*header, "noise in the images", *METHODS], body)


def gate() -> str:
    """Quantiles of estimate_sigma over clean training images."""
    records = frame("noise_level", metric="estimated_sigma_quantile")
    records = records.assign(images=[f"{one.n:,} of {one.dataset}" for one in records.itertuples()])
    return table(records, ["images"], "quantile", rounded(4), header=["training images, quantile"])


def purify(records: pd.DataFrame) -> str:
    """Accuracy alone and with Purify for each corruption, and the share of images that went through the network."""
    calls = records[(records.metric == "network_calls") & (records["mode"] == "purify")].groupby("corruption").value
    shares = calls.mean().map("{:.2f}".format)
    own = in_order(accuracies_and_gains(records), mode=["default", "purify", "purify-se"])
    own = own[own.corruption != ALL]
    own = own.assign(calls=own.corruption.map(shares), column=own.recipe + ", " + own["mode"])
    order = [f"{recipe}, {mode}" for recipe in records.recipe.unique() for mode in own["mode"].unique()]
    return table(own, ["corruption", "calls"], "column", accuracy_and_gain, ["corruption", "calls an image"], order)


def purify_mean() -> str:
    """Mean accuracy over the corruptions, alone and with each method, its gain, and the network calls."""
    records = cifar10()
    records = records[records.timesteps.isin(["", "network"])]
    records = records.assign(classifier=records.model + ", " + records.recipe, column=records["mode"].map(MODES))
    every = accuracies_and_gains(records[records.corruption == ALL])
    calls = records[(records.metric == "network_calls") & (records.corruption != "clean")]

    def cell(own: pd.DataFrame) -> str:
        return f"{own.value.mean():.2g}" if (own.metric == "network_calls").all() else accuracy_and_gain(own)

    both = pd.concat([every, calls.assign(classifier="calls an image")], ignore_index=True)
    across = [MODES[mode] for mode in ("default", "de", "anytime", "purify", "purify-se")]
    return table(both, ["classifier"], "column", cell, across=across)


def harm(records: pd.DataFrame) -> str:
    """Gains of DE and Purify over the mode default on noise, and on the images that DE changes for the worse."""
    parts = dict.fromkeys(FAMILIES["noise"], "noise") | {name: name for name in ("clean", "fog", "contrast")}
    own = records[(records.metric == "gain") & records.timesteps.isin(["", "network"])]
    own = in_order(own.assign(classifier=own.model + ", " + own.recipe), mode=["de", "purify"], corruption=list(parts))
    own = in_order(own, classifier=(records.model + ", " + records.recipe).unique())
    own = own.assign(gain=True, part=own.corruption.map(parts), mode=own["mode"].map(MODES))
    return table(own, ["classifier", "mode"], "part")


def accuracies_and_gains(records: pd.DataFrame) -> pd.DataFrame:
    """Without the single views of the ensemble."""
    return records[records.metric.isin(("accuracy", "gain")) & (records["mode"] != "view")]


def accuracy_and_gain(own: pd.DataFrame) -> str:
    """The mean accuracy over seeds, and the gain over the mode default, if there is one, in brackets.

    The gain's standard error is that over seeds, or over images if there is one seed.
    """
    gains = own[own.metric == "gain"]
    text = f"{own[own.metric == 'accuracy'].value.mean():.1f}"
    if not len(gains):
        return text
    if len(gains) == 1:
        return f"{text} ({gains.value.item():+.1f} ± {gains.standard_error.item():.1f})"
    return f"{text} ({mean_and_error(gains.value.tolist(), sign='+')})"


TABLES = {
    "noise_level": noise_level,
    "other_noise": other_noise,
    "gate": gate,
    "purify": lambda: purify(cifar10().query("model == 'airbench94' and recipe in ('baseline', 'diffaug')")),
    "purify_embedded": lambda: purify(cifar10().query("model != 'airbench94'")),
    "purify_mean": purify_mean,
    "harm": lambda: harm(cifar10()),
}
