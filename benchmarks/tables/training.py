"""Tables of the recipes of train_cifar10, as covariate_shift judges them, and the README's main table."""

from __future__ import annotations

from itertools import product
from statistics import mean

import pandas as pd

from diffaug_transforms.robustness import CORRUPTIONS, mean_corruption_error
from diffaug_transforms.robustness.evaluation.report import ALL

from ..harness.tables import columns, difference, frame, gains, in_order, table

MODEL = "airbench94"
RECIPES = ("baseline", "diffaug", "augmix", "augmix+diffaug")
#: DiffAug with the network that costs an eighth.
SMALL_NETWORK = "@cifar10-small"
SMALL = f"diffaug{SMALL_NETWORK}"
#: More recipes of the low rate, of one seed.
ONE_SEED = ("deepaugment", "deepaugment+diffaug", "deepaugment+augmix", "deepaugment+augmix+diffaug")
#: Endings of the low rate's files: the main recipes, and those of one seed.
LOW_RATE_PARTS = ("", "_deepaugment", "_deepaugment_augmix")
ALL_CLEAN = "all clean images"
COLUMNS = ("clean, Default", "clean, DE", "corrupted, Default", "corrupted, DE", "corrupted, Purify")
FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
FAMILY = {corruption: family for family, corruptions in FAMILIES.items() for corruption in corruptions}
MODES = {"default": "Default", "de": "DE", "purify": "Purify"}
#: The experiment about DiffAug beside AugMix: recipes and their titles, and the pairs that it compares.
BESIDE_AUGMIX = {
    "augmix": "A: augmix",
    "augmix+diffaug@cifar10-small, p=0": "B: A and the clean image again",
    "augmix+diffaug@cifar10-small": "C: A and DiffAug's view",
    "augmix+diffaug@cifar10-small, jsd=24": "D: C at half weights",
}
BESIDE_AUGMIX_PAIRS = (("A", "B"), ("B", "C"), ("A", "C"), ("A", "D"))


def headline() -> str:
    """What each recipe brings on clean images and under corruptions, alone and with Purify."""
    titles = {ALL_CLEAN: "clean", "corrupted": "corrupted", "corrupted, Purify": "corrupted, Purify"}
    records = in_order(at_low_rate(), recipe=RECIPES).replace({"column": titles})
    return table(records, ["recipe"], "column", header=["trained with"], across=titles.values())


def at_low_rate() -> pd.DataFrame:
    """Accuracies of the recipes that go on from one start; ``column`` says of which images and by which mode."""
    corrupted = judged_at_low_rate()
    default = corrupted[corrupted["mode"] == "default"]
    trained = [trained_at_low_rate(part) for part in LOW_RATE_PARTS]
    parts = {
        ALL_CLEAN: pd.concat(trained).drop_duplicates(["recipe", "seed"]),
        "corrupted": default,
        "corrupted, Purify": corrupted[corrupted["mode"] == "purify"],
        **by_family(default),
    }
    return in_order(columns(parts), recipe=["start", *RECIPES, *ONE_SEED])


def by_part(records: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The clean images' records, all corruptions' together, and those of each kind of corruption."""
    corrupted = records[records.corruption != "clean"]
    return {"clean": records[records.corruption == "clean"], "corrupted": corrupted, **by_family(corrupted)}


def by_family(records: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {family: records[records.corruption.isin(kinds)] for family, kinds in FAMILIES.items()}


def trained_at_low_rate(part: str = "") -> pd.DataFrame:
    """What the training script found on all clean test images."""
    records = frame(f"train_cifar10_low_rate{part}")
    return records.assign(recipe=records.recipe.str.removesuffix(SMALL_NETWORK))


def judged_at_low_rate() -> pd.DataFrame:
    """Accuracies of all recipes at severity 5."""
    return under_corruptions(*(f"covariate_shift_cifar10-c_low_rate{part}" for part in LOW_RATE_PARTS))


def under_corruptions(*names: str) -> pd.DataFrame:
    """The low rate's classifiers alone and with Purify on corrupted images, from these files, by plain names."""
    wanted = {"metric": "accuracy", "mode": ["default", "purify"]}
    records = with_plain_names(pd.concat([frame(name, **wanted) for name in names], ignore_index=True))
    return records[~records.corruption.isin(["clean", ALL])]


def with_plain_names(records: pd.DataFrame) -> pd.DataFrame:
    """Of the low rate's recipes, which all have the mean of their cross-entropies and DiffAug with one network."""
    names = records.recipe.str.removesuffix(", mean loss").str.removesuffix(SMALL_NETWORK)
    return records.assign(recipe=names)


def recipes() -> str:
    """Accuracy on all clean test images, then on corrupted ones, by recipe."""
    records = at_low_rate()
    budget = training_budget(frame("train_cifar10_low_rate"))
    return budget + table(records, ["recipe"], "column", across=records.column.unique())


def diffaug_effect() -> str:
    """Accuracy with DiffAug minus without, paired by seed, under each recipe."""
    records = at_low_rate()
    paired = gains(records, "seed", "column", "corruption")
    return table(paired, ["recipe"], "column", header=["from, to"], across=records.column.unique())


def corruption_families() -> str:
    """By kind of corruption, alone and with Purify."""
    records = judged_at_low_rate()
    records = in_order(records.assign(family=records.corruption.map(FAMILY)), recipe=RECIPES, mode=MODES)
    return table(records.replace({"mode": MODES}), ["recipe", "mode"], "family", across=FAMILIES)


def severities() -> str:
    """Mean accuracy over all severities, and mCE over the baseline's errors. Then what DiffAug changes in them."""
    records = in_order(under_corruptions("covariate_shift_cifar10-c_severities"), recipe=RECIPES, mode=MODES)
    reference = errors(records[(records.recipe == "baseline") & (records["mode"] == "default")])
    found = []
    for (mode, recipe, seed), own in records.groupby(["mode", "recipe", "seed"], sort=False):
        line = {"recipe": recipe, "seed": seed}
        found.append({**line, "column": f"accuracy, {MODES[mode]}", "value": own.value.mean()})
        found.append({**line, "column": f"mCE, {MODES[mode]}", "value": mean_corruption_error(errors(own), reference)})
    every = pd.DataFrame(found)
    every = pd.concat([every, gains(every, "seed", "column")], ignore_index=True)
    return table(every, ["recipe"], "column", across=sorted(every.column.unique()))


def errors(records: pd.DataFrame) -> dict[str, float]:
    """Mean error in [0, 1] of each corruption, over severities and seeds."""
    return {c: mean(1 - value / 100 for value in records[records.corruption == c].value) for c in CORRUPTIONS}


def low_rate_ensemble() -> str:
    """Accuracy of every mode and its gain over Default, by recipe. Then what DiffAug in training adds to them."""
    records = frame("covariate_shift_cifar10-c_low_rate_de", metric="accuracy", mode=list(MODES))
    records = in_order(with_plain_names(records[records.corruption != ALL]), recipe=RECIPES)
    own = {
        (images, mode): records[((records.corruption == "clean") == (images == "clean")) & (records["mode"] == mode)]
        for images, mode in product(("clean", "corrupted"), MODES)
    }
    every = columns({f"{images}, {MODES[mode]}": part for (images, mode), part in own.items()})
    same = ("recipe", "seed", "corruption")
    added = {
        f"{MODES[mode]} adds": difference(own["corrupted", "default"], own["corrupted", mode], *same)
        for mode in ("de", "purify")
    }
    lines = [every, gains(every, "seed", "column", "corruption"), columns(added)]
    return table(pd.concat(lines, ignore_index=True), ["recipe"], "column", across=(*COLUMNS, *added))


def sum_or_mean() -> str:
    """Accuracy on all clean test images of the first seed, by how the loss joins the cross-entropies."""
    parts = columns({"mean": trained_at_low_rate(), "sum": trained_at_low_rate("_sum")})
    records = in_order(parts[parts.seed == 0], recipe=("diffaug", "augmix+diffaug"))
    return table(records, ["recipe"], "column", across=("mean", "sum"))


def training_budget(records: pd.DataFrame) -> str:
    """What every recipe had: model, images, and the seconds that training took beside other work."""
    start, later = records[records.recipe == "start"], records[records.recipe != "start"]
    (first,), (second,), (model,) = start.images_seen.unique(), later.images_seen.unique(), records.model.unique()
    return (
        f"Model {model}. The start: {first:,} images ({first / 50_000:.1f} passes over the training set), "
        f"{mean(start.seconds.tolist()):.0f} s. Every recipe from there on: {second:,} images ({second / 50_000:.1f} "
        f"passes), all views of each, {later.seconds.min():.0f} to {later.seconds.max():.0f} s.\n\n"
    )


def accuracies() -> pd.DataFrame:
    """Of the classifiers of the high rate, with the network's own timesteps; ``column`` says of what and by what."""
    records = frame("covariate_shift_cifar10-c", metric="accuracy", model=MODEL, mode=list(MODES))
    records = records[(records.corruption != ALL) & records.timesteps.isin(["", "network"])]
    records = in_order(records, recipe=(*RECIPES, SMALL))
    images = records.corruption.where(records.corruption == "clean", "corrupted")
    return records.assign(column=images + ", " + records["mode"].map(MODES))


def high_rate() -> str:
    """Accuracy on all clean test images, then on those of covariate_shift, by recipe."""
    whole = frame("train_cifar10").assign(column=ALL_CLEAN)
    records = in_order(pd.concat([whole, accuracies()], ignore_index=True), recipe=["start", *RECIPES, SMALL])
    budget = training_budget(frame("train_cifar10"))
    return budget + table(records, ["recipe"], "column", across=(ALL_CLEAN, *COLUMNS))


def high_rate_effect() -> str:
    """Accuracy with DiffAug minus without, paired by seed, under each recipe."""
    paired = gains(accuracies(), "seed", "column", "corruption")
    return table(paired, ["recipe"], "column", header=["from, to"], across=COLUMNS)


def beside_augmix() -> str:
    """Accuracy with AugMix and with a fourth view beside it, then differences, paired by seed."""
    records = frame("covariate_shift_cifar10-c_beside_augmix", metric="accuracy")
    records = in_order(records[records.corruption != ALL], recipe=BESIDE_AUGMIX)
    parts = by_part(records)
    every = columns(parts)
    by_letter = {title[0]: every[every.recipe == recipe] for recipe, title in BESIDE_AUGMIX.items()}
    lines = [every.assign(recipe=every.recipe.map(BESIDE_AUGMIX))]
    for first, second in BESIDE_AUGMIX_PAIRS:
        found = difference(by_letter[first], by_letter[second], "seed", "column", "corruption")
        lines.append(found.assign(recipe=f"{first} to {second}"))
    return table(pd.concat(lines, ignore_index=True), ["recipe"], "column", across=parts)


TABLES = {
    "headline": headline,
    "recipes": recipes,
    "diffaug_effect": diffaug_effect,
    "corruption_families": corruption_families,
    "severities": severities,
    "low_rate_ensemble": low_rate_ensemble,
    "sum_or_mean": sum_or_mean,
    "high_rate": high_rate,
    "high_rate_effect": high_rate_effect,
    "beside_augmix": beside_augmix,
}
