"""Tables of guidance: samples, accuracy over time, alignment and cost of gradients."""

from __future__ import annotations

import pandas as pd

from ..harness.records import Record
from ..harness.tables import Formats, difference, frame, in_order, mean_and_error, metrics_table, sign, table

#: Metric to heading and digits. Lower is better for the first two, higher for the others.
METRICS = {
    "fid": ("FID", 2),
    "sfid": ("sFID", 2),
    "inception_score": ("IS", 2),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
    "density": ("density", 3),
    "coverage": ("coverage", 3),
    "label_accuracy": ("of its class (%)", 1),
}
TOTAL = "denoise-augmented, total"
QUARTERS = {0: "all t", 1: "first quarter", 2: "second", 3: "third", 4: "last"}


def title(fields: Record) -> str:
    """The name of a kind of guidance: its recipe, and the derivative if it has two."""
    recipe: str = fields["recipe"]
    return f"{recipe}, {fields['mode']}" if recipe == "denoise-augmented" else recipe


def guidance(records: pd.DataFrame) -> str:
    """The paper's table: a line for each kind and scale of guidance, mean ± standard error over classifiers' seeds.

    The last lines are what the denoise-augmented classifier's samples have more than the noisy one's, paired by seed.
    """
    samples = _titled(records[records.metric.isin(list(METRICS))])
    noisy, total = samples[samples.recipe == "noisy"], samples[samples.title == TOTAL]
    gain = difference(noisy, total, "seed", "scale", "metric").assign(recipe="gain", title="total less noisy")
    samples = pd.concat([samples, gain], ignore_index=True)
    judged = records[(records.metric == "accuracy") & (records["mode"] == "diffused") & (records.quarter == 0)]
    accuracy = {recipe: mean_and_error(own.value.tolist()) for recipe, own in judged.groupby("recipe")}
    samples["scale"] = ["" if r == "real images" else f"{s:g}" for r, s in zip(samples.recipe, samples.scale)]
    samples["accuracy"] = samples.recipe.map(accuracy).fillna("")
    samples["column"] = samples.metric.map({metric: heading for metric, (heading, _) in METRICS.items()})
    rows, header = ["title", "scale", "accuracy"], ["guidance", "scale", "accuracy (%)"]
    digits = dict(METRICS.values())
    return _note(samples) + table(
        samples, rows, "column", lambda own: _cell(own, digits[own.column.iloc[0]]), header, across=digits
    )


def guidance_accuracy(records: pd.DataFrame) -> str:
    """Accuracy in percent at one uniform random time for each image, and by quarter of the times."""
    own = records[records["mode"] == "diffused"].astype({"quarter": int})
    noisy, augmented = (own[own.recipe == recipe] for recipe in ("noisy", "denoise-augmented"))
    gain = difference(noisy, augmented, "seed", "quarter").assign(recipe="the latter's gain")
    own = pd.concat([own, gain], ignore_index=True)
    own = in_order(own, recipe=own.recipe.unique(), quarter=QUARTERS).replace({"quarter": QUARTERS})
    return table(own, ["recipe"], "quarter", lambda c: _cell(c, 1), header=["classifier"])


def guidance_training(records: pd.DataFrame) -> str:
    """Accuracy over the training: a line for the start and for each form, a column for each number of images seen."""
    own = records[records["mode"] == "training"].astype({"images_seen": int}).sort_values("images_seen", kind="stable")
    recipes = [recipe for recipe in ("their start", "noisy", "denoise-augmented") if recipe in set(own.recipe)]
    own = in_order(own, recipe=recipes, images_seen=own.images_seen.unique())
    own["column"] = [f"{images / 1e6:.2f} M" for images in own.images_seen]
    across = own.sort_values("images_seen", kind="stable").column.unique()
    return table(own, ["recipe"], "column", lambda c: _cell(c, 1), header=["classifier"], across=across)


def guidance_alignment(records: pd.DataFrame) -> str:
    """Cosine of the gradients with the score network's own over t: a line for each classifier and derivative."""
    own = _titled(records[records.metric == "score_cosine"]).astype({"timestep": int})
    noisy, total = own[own.recipe == "noisy"], own[own.title == TOTAL]
    gain = difference(noisy, total, "seed", "timestep").assign(title="total over noisy")
    own = pd.concat([own, gain], ignore_index=True)
    own = in_order(own, title=own.title.unique(), timestep=sorted(own.timestep.unique()))
    own["t"] = [f"t = {t}" for t in own.timestep]
    return table(own, ["title"], "t", lambda c: _cell(c, 3), header=["gradient"])


def guidance_cost(records: pd.DataFrame) -> str:
    """What one gradient costs: time and memory as multiples of the partial derivative's, and in themselves."""
    header = ["gradient", "time, ratio", "memory, ratio", "ms an image", "MiB an image"]
    formats: Formats = {"time_ratio": "{:.2f}".format, "memory_ratio": "{:.2f}".format}
    formats["seconds_per_image"] = lambda value: f"{1000 * value:.1f}"
    formats["peak_bytes"] = lambda value: f"{value / 2**20:.1f}"
    return metrics_table(records[records["mode"] == "cost"], "recipe", header, formats)


def _titled(records: pd.DataFrame) -> pd.DataFrame:
    return records.assign(title=[title(r) for r in records[["recipe", "mode"]].to_dict("records")])


def _cell(records: pd.DataFrame, digits: int) -> str:
    return mean_and_error(records.value.tolist(), digits, sign(records))


def _note(samples: pd.DataFrame) -> str:
    own = samples[samples.recipe != "real images"].astype({"n": int, "n_reference": int})
    (extractor,), (reference,) = samples.extractor.unique(), samples.reference.unique()
    fid, precision, density = (own[own.metric == metric] for metric in ("fid", "precision", "density"))
    (sampler,), (number,), (against,) = own.sampler.unique(), fid.n.unique(), fid.n_reference.unique()
    (equal,) = precision[["n", "n_reference"]].min(axis=1).unique()
    (k,), (k_density,) = (some.nearest_k.astype(int).unique() for some in (precision, density))
    (layer,) = samples[samples.metric == "sfid"].layer.unique()
    return (
        f"Features: {extractor}, sFID's from its layer `{layer}`. {number:,} samples in each line, {sampler}, all with "
        f"the same noise, against {against:,} {reference} images. Precision to coverage are over {equal:,} images of "
        f"either set. Balls reach to neighbour {k} for precision and recall, {k_density} for density and coverage.\n\n"
    )


TABLES = {
    "guidance": lambda: guidance(frame("guidance")),
    "guidance_accuracy": lambda: guidance_accuracy(frame("guidance")),
    "guidance_training": lambda: guidance_training(frame("guidance")),
    "guidance_scratch": lambda: guidance_accuracy(frame("guidance_from_scratch")),
    "guidance_scratch_alignment": lambda: guidance_alignment(frame("guidance_from_scratch")),
    "guidance_alignment": lambda: guidance_alignment(frame("guidance")),
    "guidance_scratch_cost": lambda: guidance_cost(frame("guidance_from_scratch")),
    "guidance_cost": lambda: guidance_cost(frame("guidance")),
}
