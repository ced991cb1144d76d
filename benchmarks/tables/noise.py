"""Tables of noise_level and purify: how well noise is measured, and what removing it brings."""

from __future__ import annotations

import pandas as pd

from ..harness.tables import frame, markdown, table

METHODS = ("estimate_sigma", "Haar median", "scikit-image")


def noise_level() -> str:
    """Mean estimate of each method on Gaussian noise, by what was added, and the root mean square error."""
    return _levels(frame("noise_level", noise="Gaussian"), ["dataset", "sigma"], ["images", "sigma added"])


def other_noise() -> str:
    """The same for noise that is not Gaussian."""
    records = frame("noise_level")
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


def purify() -> str:
    """Accuracy with and without Purify for each corruption, and the share of images that went through the network."""
    records = frame("purify", metric="accuracy")
    calls = frame("purify", metric="network_calls").set_index("corruption").value
    records = records.assign(
        calls=records.corruption.map(lambda name: f"{calls[name]:.2f}"), column=records.recipe + ", " + records["mode"]
    )
    return table(records, ["corruption", "calls"], "column", _accuracy, header=["corruption", "calls an image"])


def _accuracy(one: pd.DataFrame) -> str:
    gain = "" if one["mode"].item() == "default" else f" ({one.gain.item():+.1f} ± {one.gain_error.item():.1f})"
    return f"{one.value.item():.1f}{gain}"


def purify_mean() -> str:
    """Mean accuracy over the corruptions, and its gain."""
    records = frame("purify", metric="accuracy")
    records = records[records.corruption != "clean"]
    means = records.groupby(["recipe", "mode"], sort=False)[["value", "gain"]].mean().reset_index()
    body = [[r.recipe, r.mode, f"{r.value:.1f}", f"{r.gain:+.1f}"] for r in means.itertuples()]
    return markdown(["classifier", "mode", "mean accuracy (%)", "gain over default"], body)


TABLES = {"noise_level": noise_level, "other_noise": other_noise, "purify": purify, "purify_mean": purify_mean}
