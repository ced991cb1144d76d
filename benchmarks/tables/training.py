"""Tables of train_cifar10, and the README's main table."""

from __future__ import annotations

from statistics import mean

import pandas as pd

from ..harness.tables import columns, frame, gains, in_order, table
from .certificates import best_sigma

RECIPES = ("baseline", "diffaug", "augmix", "augmix+diffaug")
COLUMNS = ("clean, Default", "clean, DE", "corrupted, Default", "corrupted, DE")
FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
FAMILY = {corruption: family for family, corruptions in FAMILIES.items() for corruption in corruptions}
MODES = {"default": "Default", "de": "DE"}


def accuracies() -> pd.DataFrame:
    """All of train_cifar10's records; the field ``column`` says which images and which mode."""
    records = frame("train_cifar10")
    images = records.dataset.map({"cifar10": "clean", "cifar10-c": "corrupted"})
    return records.assign(column=images + ", " + records["mode"].map(MODES))


def headline() -> str:
    """What each recipe brings: accuracy, certified accuracy at radius 1, AUROC of images of unknown classes."""
    trained = accuracies()
    certified = [best_sigma(frame("certify", recipe=recipe), radius=1.0) for recipe in RECIPES]
    parts = {
        "clean": trained[trained.column == "clean, Default"],
        "corrupted": trained[trained.column == "corrupted, Default"],
        "corrupted, ensemble": trained[trained.column == "corrupted, DE"],
        "certified at radius 1": pd.concat(certified),
        "unknown images, AUROC": frame("ood", distance="near", method="msp", metric="auroc"),
    }
    return table(in_order(columns(parts), recipe=RECIPES), ["recipe"], "column", header=["trained with"], across=parts)


def budget(records: pd.DataFrame) -> str:
    """What every recipe had: model, images, and the seconds that training took beside other work."""
    start, later = records[records.recipe == "start"], records[records.recipe != "start"]
    (first,), (second,), (model,) = start.images_seen.unique(), later.images_seen.unique(), records.model.unique()
    return (
        f"Model {model}. The start: {first:,} images ({first / 50_000:.1f} passes over the training set), "
        f"{mean(start.seconds.tolist()):.0f} s. Every recipe from there on: {second:,} images ({second / 50_000:.1f} "
        f"passes), all views of each, {later.seconds.min():.0f} to {later.seconds.max():.0f} s.\n\n"
    )


def recipes() -> str:
    records = accuracies()
    records["seeds"] = records.groupby("recipe").seed.transform("nunique")
    return budget(records) + table(records, ["recipe", "seeds"], "column", across=COLUMNS)


def diffaug_effect() -> str:
    """Accuracy with DiffAug minus without, paired by seed, under each recipe."""
    paired = gains(accuracies(), "seed", "column", "corruption")
    return table(paired, ["recipe"], "column", header=["from, to"], across=COLUMNS)


def corruption_families() -> str:
    records = frame("train_cifar10", recipe=RECIPES, dataset="cifar10-c")
    records = in_order(records.assign(family=records.corruption.map(FAMILY)), recipe=RECIPES, mode=MODES)
    return table(records.replace({"mode": MODES}), ["recipe", "mode"], "family", across=FAMILIES)


TABLES = {
    "headline": headline,
    "recipes": recipes,
    "diffaug_effect": diffaug_effect,
    "corruption_families": corruption_families,
}
