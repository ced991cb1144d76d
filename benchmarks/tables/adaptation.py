"""Tables of covariate_shift, ensemble_rules and adaptation: classifiers under shift, alone and adapted."""

from __future__ import annotations

from itertools import product

import pandas as pd

from diffaug_transforms.robustness import CORRUPTIONS, mean_corruption_error
from diffaug_transforms.robustness.evaluation.report import ALL

from ..harness.tables import (
    columns,
    difference,
    frame,
    in_order,
    markdown,
    mean_and_error,
    over_seeds,
    rounded,
    table,
    with_error,
)
from .training import FAMILIES, FAMILY, RECIPES, SMALL, by_part, errors, with_plain_names

MODES = {
    "default": "Default",
    "dda": "DDA",
    "dda-se": "DDA-SE",
    "de": "DE",
    "anytime": "anytime DE",
    "purify": "Purify",
    "purify-se": "Purify-SE",
}


def shift_table(records: pd.DataFrame, baseline: str = "alexnet") -> str:
    """Every mode on shifted, then on clean images: one line per classifier and choice of timesteps.

    With all five severities of all 15 corruptions there is mCE too, over ``baseline``'s errors: "alexnet", or a
    recipe's Default.
    """
    accuracy = labelled(records)
    is_clean = accuracy.corruption == "clean"
    shifted, clean = (accuracy, accuracy[:0]) if is_clean.all() else (accuracy[~is_clean], accuracy[is_clean])
    titles = [title for title in MODES.values() if title in set(accuracy["mode"])]
    parts = {title: shifted[shifted["mode"] == title] for title in titles}
    parts |= {f"clean, {title}": clean[clean["mode"] == title] for title in titles if len(clean)}
    corruptions = set(zip(shifted.corruption, shifted.severity))
    if corruptions == set(product(CORRUPTIONS, range(1, 6))):
        parts |= {f"mCE, {title}": parts[title] for title in titles}
    own = shifted[(shifted.recipe == baseline) & (shifted["mode"] == "Default")]

    def cell(records: pd.DataFrame) -> str:
        if not records.column.iloc[0].startswith("mCE"):
            return over_seeds(records)
        reference = errors(own) if len(own) else baseline
        return mean_and_error([mean_corruption_error(errors(one), reference) for _, one in records.groupby("seed")])

    numbers = " or ".join(map(str, sorted(shifted.n.unique())))
    note = f"{numbers} images of each of {len(corruptions)} parts, the same in every column.\n\n"
    return note + table(columns(parts), ["classifier", "seeds", "timesteps"], "column", cell, across=parts)


def labelled(records: pd.DataFrame) -> pd.DataFrame:
    """Each mode's accuracies with the table's first fields. Default has no timesteps: it is on each line."""
    accuracy = named(records[(records.metric == "accuracy") & (records.corruption != ALL)])
    accuracy["seeds"] = accuracy.groupby("classifier").seed.transform("nunique")
    default, others = accuracy[accuracy["mode"] == "Default"], accuracy[accuracy["mode"] != "Default"]
    choices = list(others.timesteps.unique()) or [""]
    every = pd.concat([*(default.assign(timesteps=choice) for choice in choices), others], ignore_index=True)
    return in_order(every, classifier=accuracy.classifier.unique(), timesteps=choices)


def named(records: pd.DataFrame) -> pd.DataFrame:
    """The modes' records with the classifiers' shortest distinct names and the modes' titles, in the modes' order."""
    own = in_order(records, mode=MODES)
    models, recipes = own.model.nunique() > 1, own.recipe.nunique() > 1
    names = own.model + ", " + own.recipe if models else own.recipe if recipes else own.model
    return own.assign(classifier=names, mode=own["mode"].map(MODES))


def cifar10() -> pd.DataFrame:
    """covariate_shift's records on CIFAR-10-C, in the recipes' order."""
    return in_order(frame("covariate_shift_cifar10-c"), recipe=(*RECIPES, SMALL)).sort_values("model", kind="stable")


def shift_families() -> str:
    """Accuracy by kind of corruption, per classifier and mode."""
    records = labelled(cifar10())
    records = records.assign(family=records.corruption.map(FAMILY))[records.timesteps == "network"]
    return table(records, ["classifier", "mode"], "family", across=FAMILIES)


def detailed_table(records: pd.DataFrame, choices: dict[str, str]) -> str:
    """One line per classifier, mode and choice of timesteps: clean, all corruptions, their kinds, and network calls.

    The standard errors are those over images. The kinds have none, because the records of single corruptions do not
    tell how the errors on one image go together. With several seeds, standard errors are those over seeds.

    Args:
        choices: the title of each choice of timesteps. Default and Purify have none.
    """
    every = named(records)
    title = every.timesteps.map(choices).fillna(every.timesteps)
    every = every.assign(timesteps=title.mask(every["mode"].isin(("Default", "Purify", "Purify-SE")), ""))
    every = in_order(
        every, classifier=every.classifier.unique(), mode=MODES.values(), timesteps=every.timesteps.unique()
    )
    accuracy, mean_of_all = every[every.metric == "accuracy"], every[every.corruption == ALL]
    parts = {
        "clean": accuracy[accuracy.corruption == "clean"],
        "corrupted": mean_of_all[mean_of_all.metric == "accuracy"],
        "gain": mean_of_all[mean_of_all.metric == "gain"],
    }
    parts |= {family: accuracy[accuracy.corruption.isin(kinds)] for family, kinds in FAMILIES.items()}
    parts |= {"calls": every[(every.metric == "network_calls") & (every.corruption != "clean")]}

    def cell(own: pd.DataFrame) -> str:
        return with_error(1)(own) if len(own) == 1 and own.standard_error.notna().all() else over_seeds(own)

    number = " or ".join(map(str, sorted(accuracy.n.unique())))
    note = f"{number} images of each part, the same in every column. Gain: of all corruptions, over Default.\n\n"
    return note + table(columns(parts), ["classifier", "mode", "timesteps"], "column", cell, across=parts)


def cifar10_dda(records: pd.DataFrame) -> str:
    """The low rate's classifiers in the recipes' order, with DDA, DDA-SE and Purify."""
    return detailed_table(in_order(with_plain_names(records), recipe=RECIPES), {"network": "matched"})


def purify_or_dda(records: pd.DataFrame) -> str:
    """Accuracy with Purify minus accuracy with DDA-SE, paired by seed."""
    own = records[(records.metric == "accuracy") & (records.corruption != ALL)]
    own = in_order(with_plain_names(own), recipe=RECIPES)
    purify, dda = (own[own["mode"] == mode] for mode in ("purify", "dda-se"))
    found = difference(dda, purify, "recipe", "seed", "corruption")
    parts = by_part(found)
    return table(columns(parts), ["recipe"], "column", header=["trained with"], across=parts)


def _parted(records: pd.DataFrame) -> pd.DataFrame:
    return records.assign(part=records.corruption.where(records.corruption == "clean", "corrupted"))


def anytime() -> str:
    """Network calls, share of the full ensemble's answers and accuracy of each stopping rule, over all classifiers."""
    records = _parted(frame("ensemble_rules"))
    full = records[records.method == "weights, mean"].assign(method="anytime, all views")
    whole = [full.assign(metric="network_calls", value=9.0), full.assign(metric="same_answers", value=100.0), full]
    stops = pd.concat([*whole, records[records.method.str.startswith("anytime")]]).sort_values(
        "timesteps", kind="stable"
    )
    titles = {"network_calls": "calls", "same_answers": "same answers (%)", "accuracy": "accuracy (%)"}
    stops = stops.assign(
        method=stops.method.str.removeprefix("anytime, "), column=stops.metric.map(titles) + ", " + stops.part
    )
    across = [f"{title}, {part}" for title in titles.values() for part in ("clean", "corrupted")]
    return table(stops, ["timesteps", "method"], "column", rounded(1), header=["S", "stops"], across=across)


def view_weights() -> str:
    """Accuracy of each weighting of the views, clean / corrupted, per classifier and choice of timesteps."""
    records = _parted(frame("ensemble_rules")).sort_values("timesteps", kind="stable")
    records = records[records.method.str.startswith("weights")]
    records = records.assign(method=records.method.str.removeprefix("weights, "))

    def both(own: pd.DataFrame) -> str:
        return " / ".join(rounded(1)(own[own.part == part]) for part in ("clean", "corrupted"))

    return table(records, ["timesteps", "recipe"], "method", both, header=["S", "classifier"])


def adaptation_speed() -> str:
    body = []
    for method, own in frame("adaptation_speed").groupby("method", sort=False):
        value = dict(zip(own.metric, own.value))
        calls = f"{value['network_calls']:.1f} + {value['backward_calls']:.0f}"
        ratio = f"{value['ratio_to_de']:.3g} ± {own.standard_error.max():.2g}"
        body.append([method, f"{1000 * value['seconds_per_image']:.3g}", ratio, calls])
    return markdown(["mode", "ms an image", "time, ratio to DE", "network calls, forward + backward"], body)


def dda_guide() -> str:
    """RMS distance, on [0, 1] pixels, of DDA's result from a clean image: downscales down, scales across."""
    records = frame("dda_guide").sort_values(["downscale", "guidance_scale"])
    return table(records, ["downscale"], "guidance_scale", with_error(3), header=["downscale, scale"])


#: The paper's timesteps matched to 64 pixels, as they are, and matched to 128 pixels.
TINY_IMAGENET_TIMESTEPS = {
    "network": "matched",
    "paper": "paper's",
    "0,23,48,76,106,138,175,216,262,312": "halfway",
}

TABLES = {
    "tiny_imagenet": lambda: detailed_table(frame("covariate_shift_tiny-imagenet-c"), TINY_IMAGENET_TIMESTEPS),
    "covariate_shift": lambda: shift_table(cifar10()),
    # The reference's guide at 32 pixels, with the network's start and with its own.
    "reference_dda": lambda: shift_table(frame("covariate_shift_reference_dda", mode=["default", "dda", "dda-se"])),
    "cifar10_dda": lambda: cifar10_dda(frame("covariate_shift_cifar10-c_low_rate_dda")),
    "purify_or_dda": lambda: purify_or_dda(frame("covariate_shift_cifar10-c_low_rate_dda")),
    "shift_families": shift_families,
    "anytime": anytime,
    "view_weights": view_weights,
    "adaptation_speed": adaptation_speed,
    "dda_guide": dda_guide,
}
