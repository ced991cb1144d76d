"""Tables of covariate_shift, ensemble_rules and adaptation: classifiers under shift, alone and adapted."""

from __future__ import annotations

from itertools import product
from statistics import mean

import pandas as pd

from diffaug_transforms.robustness import CORRUPTIONS, mean_corruption_error

from ..harness.tables import columns, frame, markdown, over_seeds, rounded, table, with_error
from .training import FAMILIES, FAMILY

MODES = {"default": "Default", "dda": "DDA", "dda-se": "DDA-SE", "de": "DE"}


def shift_table(records: pd.DataFrame, baseline: str = "alexnet") -> str:
    """Every mode on shifted, then on clean images: one line per classifier and choice of timesteps.

    With all five severities of all 15 corruptions there is mCE too, over ``baseline``'s errors: "alexnet", or a
    recipe's Default.
    """
    accuracy = labelled(records)
    is_clean = accuracy.corruption == "clean"
    shifted, clean = (accuracy[~is_clean], accuracy[is_clean]) if not is_clean.all() else (accuracy, accuracy[:0])
    titles = [title for title in MODES.values() if title in set(accuracy["mode"])]
    parts = {title: shifted[shifted["mode"] == title] for title in titles}
    parts |= {f"clean, {title}": clean[clean["mode"] == title] for title in titles if len(clean)}
    keys = ["classifier", "seeds", "timesteps"]
    numbers = " or ".join(map(str, sorted(shifted.n.unique())))
    pairs = set(zip(shifted.corruption, shifted.severity))
    note = f"{numbers} images of each of {len(pairs)} parts, the same in every column.\n\n"
    if pairs != set(product(CORRUPTIONS, range(1, 6))):
        return note + table(columns(parts), keys, "column", across=parts)
    parts |= {f"mCE, {title}": parts[title].assign(is_mce=True) for title in titles}
    own = shifted[(shifted.recipe == baseline) & (shifted["mode"] == "Default")]
    reference = baseline if baseline == "alexnet" else _errors(own)

    def cell(records: pd.DataFrame) -> str:
        is_mce = records["is_mce"].eq(True).all()
        return f"{mean_corruption_error(_errors(records), reference):.1f}" if is_mce else over_seeds(records)

    return note + table(columns(parts), keys, "column", cell, across=parts)


def labelled(records: pd.DataFrame) -> pd.DataFrame:
    """Each mode's accuracies with the table's first fields. Default has no timesteps: it is on each line."""
    accuracy = records[(records.metric == "accuracy") & records["mode"].isin(list(MODES))]
    several_models, several = accuracy.model.nunique() > 1, len(set(zip(accuracy.model, accuracy.recipe))) > 1
    names = (
        accuracy.model + ", " + accuracy.recipe if several_models else accuracy.recipe if several else accuracy.model
    )
    accuracy = accuracy.assign(classifier=names, mode=accuracy["mode"].map(MODES))
    accuracy["seeds"] = accuracy.groupby("classifier").seed.transform("nunique")
    default, others = accuracy[accuracy["mode"] == "Default"], accuracy[accuracy["mode"] != "Default"]
    choices = list(others.timesteps.unique()) or [""]
    every = pd.concat([others, *(default.assign(timesteps=choice) for choice in choices)], ignore_index=True)
    order = {name: place for place, name in enumerate(accuracy.classifier.unique())}
    places = every.classifier.map(order) * len(choices) + every.timesteps.map(choices.index)
    return every.iloc[places.argsort(kind="stable")]


def _errors(records: pd.DataFrame) -> dict[str, float]:
    """Mean error in [0, 1] of each corruption, over severities and seeds."""
    return {c: mean(1 - value / 100 for value in records[records.corruption == c].value) for c in CORRUPTIONS}


def reference_dda() -> str:
    """The reference's guide at 32 pixels, with the network's start and with its own."""
    return shift_table(frame("covariate_shift_reference_dda", mode=["default", "dda", "dda-se"]))


def shift_families() -> str:
    """Accuracy by kind of corruption, per classifier and mode."""
    records = labelled(frame("covariate_shift_cifar10-c"))
    records = records[(records.timesteps == "network") & (records.corruption != "clean")]
    records = records.assign(family=records.corruption.map(FAMILY))
    lines = {mode: records[records["mode"] == mode] for mode in MODES.values()}
    both = pd.concat(lines.values()).sort_values("classifier", kind="stable", key=lambda own: own.map(_places(records)))
    return table(both, ["classifier", "mode"], "family", across=FAMILIES)


def _places(records: pd.DataFrame) -> dict[str, int]:
    return {name: place for place, name in enumerate(records.classifier.unique())}


def photos() -> pd.DataFrame:
    """Both runs on photos; Default is in both, and the raw image is a view of both."""
    more = frame("covariate_shift_imagenet-sample-c_paper")
    new = more[(more["mode"] == "de") | ((more["mode"] == "view") & (more.timestep != 0))]
    return pd.concat([frame("covariate_shift_imagenet-sample-c"), new], ignore_index=True)


def photo_views() -> str:
    """Accuracy of single views by their timestep, clean and corrupted."""
    views = photos().query("mode == 'view' and metric == 'accuracy'").astype({"timestep": int})
    return table(_parted(views).sort_values("timestep"), ["part"], "timestep", rounded(1), header=["view at t ="])


def _parted(records: pd.DataFrame) -> pd.DataFrame:
    return records.assign(part=["clean" if c == "clean" else "corrupted" for c in records.corruption])


def anytime() -> str:
    """Network calls, share of the full ensemble's answers and accuracy of each stopping rule, over all classifiers."""
    records = _parted(frame("ensemble_rules"))
    stops = records[records.method.str.startswith("anytime")]
    full = records[records.method == "weights, mean"]
    whole = {"network_calls": 9.0, "same_answers": 100.0, "accuracy": full.value}
    stops = pd.concat([*(full.assign(metric=metric, value=value) for metric, value in whole.items()), stops])
    titles = {"network_calls": "calls", "same_answers": "same answers (%)", "accuracy": "accuracy (%)"}
    stops = stops.assign(
        stops=stops.method.replace("weights, mean", "all views").str.removeprefix("anytime, "),
        column=stops.metric.map(titles) + ", " + stops.part,
    ).sort_values("timesteps", kind="stable")
    across = [f"{title}, {part}" for title in titles.values() for part in ("clean", "corrupted")]
    return table(stops, ["timesteps", "stops"], "column", rounded(1), header=["S", "stops"], across=across)


def view_weights() -> str:
    """Accuracy of each weighting of the views, clean / corrupted, per classifier and choice of timesteps."""
    records = _parted(frame("ensemble_rules"))
    records = records[records.method.str.startswith("weights")].sort_values("timesteps", kind="stable")
    records = records.assign(method=records.method.str.removeprefix("weights, "))

    def both(own: pd.DataFrame) -> str:
        return " / ".join(rounded(1)(own[own.part == part]) for part in ("clean", "corrupted"))

    return table(records, ["timesteps", "recipe"], "method", both, header=["S", "classifier"])


def adaptation_speed() -> str:
    records = frame("adaptation_speed")
    body = []
    for method, own in records.groupby("method", sort=False):
        one = own.set_index("metric")
        value, error = one.value, one.standard_error["ratio_to_de"]
        calls = f"{value['network_calls']:.1f} + {value['backward_calls']:.0f}"
        seconds, ratio = f"{1000 * value['seconds_per_image']:.3g}", f"{value['ratio_to_de']:.3g} ± {error:.2g}"
        body.append([method, seconds, ratio, calls])
    return markdown(["mode", "ms an image", "time, ratio to DE", "network calls, forward + backward"], body)


def dda_guide() -> str:
    """RMS distance, on [0, 1] pixels, of DDA's result from a clean image: downscales down, scales across."""
    records = frame("dda_guide").sort_values(["downscale", "guidance_scale"])
    return table(records, ["downscale"], "guidance_scale", with_error(3), header=["downscale, scale"])


TABLES = {
    "covariate_shift": lambda: shift_table(frame("covariate_shift_cifar10-c")),
    "reference_dda": reference_dda,
    "shift_families": shift_families,
    "imagenet_sample": lambda: shift_table(photos()),
    "photo_views": photo_views,
    "anytime": anytime,
    "view_weights": view_weights,
    "adaptation_speed": adaptation_speed,
    "dda_guide": dda_guide,
}
