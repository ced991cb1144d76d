"""Tables of certify: certified accuracy, and how often simulated certificates fail."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd

from ..harness.tables import columns, frame, markdown, mean_and_error, over_seeds, table, with_diffaug

#: The paper's.
RADII = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
#: By recipe: which timesteps DiffAug had in training. Smoothing at sigma 0.5 has t = 259.
MATCHED_RADII = (0.0, 0.25, 0.5, 0.75, 1.0)
MATCHED = {
    "baseline": "baseline",
    "diffaug@cifar10-small, mean loss": "diffaug, all t",
    "diffaug@cifar10-small, t=259, mean loss": "diffaug, t = 259",
}
#: On photos, where few draws are affordable.
PHOTO_RADII = (0.0, 0.1, 0.25, 0.5)


def at_radius(certificates: pd.DataFrame, radius: float) -> pd.DataFrame:
    """Certificates with 100 as their value if the class is right and the radius is at least this one, else 0."""
    right = certificates.prediction == certificates.label  # abstaining, -1, is never right
    return certificates.assign(value=100.0 * (right & (certificates.value >= radius)))


def best_sigma(certificates: pd.DataFrame, radius: float) -> pd.DataFrame:
    """``at_radius`` for the sigma that certifies most, for one recipe."""
    reached = at_radius(certificates, radius)
    return reached[reached.sigma == reached.groupby("sigma").value.mean().idxmax()]


def certify(records: pd.DataFrame) -> str:
    """Certified accuracy by radius with the best sigma at each radius for each recipe; then what DiffAug gains.

    A recipe's error is over its seeds; a gain's is over images, each with the mean over its seeds.
    """
    recipes = list(records.recipe.unique())
    best = {(name, r): best_sigma(records[records.recipe == name], r) for name in recipes for r in RADII}
    body = [[name, *(over_seeds(best[name, radius]) for radius in RADII)] for name in recipes]
    for name in (name for name in recipes if with_diffaug(name) in recipes):
        other = with_diffaug(name)
        body.append([f"{name} to {other}", *(_gain(best[name, r], best[other, r]) for r in RADII)])
    return _note(records) + markdown(["recipe, radius", *(f"{radius:g}" for radius in RADII)], body)


def certify_sigmas(records: pd.DataFrame) -> str:
    """Certified accuracy from radius 0 on, and the share of images at which it abstains, for each sigma and recipe."""
    records = records.sort_values("sigma", kind="stable").assign(sigma=lambda own: own.sigma.map("{:g}".format))
    parts = {f"{radius:g}": at_radius(records, radius) for radius in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)}
    parts["abstained (%)"] = records.assign(value=100.0 * (records.prediction == -1))
    return table(columns(parts), ["sigma", "recipe"], "column")


def certify_matched(records: pd.DataFrame) -> str:
    """Certified accuracy by sigma and radius, for DiffAug at all timesteps and at that of one sigma; then the gains.

    All errors are over images.
    """
    (draws,), number = records.draws.unique(), records.image.nunique()
    body = []
    for sigma, own in records.groupby("sigma"):
        parts = {title: own[own.recipe == recipe] for recipe, title in MATCHED.items()}
        reached = {(title, radius): at_radius(parts[title], radius) for title in parts for radius in MATCHED_RADII}
        for title in parts:
            cells = (mean_and_error(reached[title, radius].value.tolist()) for radius in MATCHED_RADII)
            body.append([f"{sigma:g}", title, *cells])
        for first, second in pairwise(parts):
            cells = (_gain(reached[first, radius], reached[second, radius]) for radius in MATCHED_RADII)
            body.append([f"{sigma:g}", f"{first} to {second}", *cells])
    note = f"{number} test images, {draws:,} draws; standard errors over images.\n\n"
    return note + markdown(["sigma", "recipe, radius", *(f"{radius:g}" for radius in MATCHED_RADII)], body)


def certify_coverage(records: pd.DataFrame) -> str:
    """How often simulated certificates fail, beside what they promise: the class's probabilities across."""
    failed = records[records.metric == "failed"].sort_values(["failure_probability", "probability"])
    (number,), (draws,) = failed.n.unique(), failed.draws.unique()
    largest = (failed.standard_error / failed.failure_probability).max()
    note = f"{number:,} certificates of {draws:,} draws each; a standard error is at most {100 * largest:.1f} % of the "
    rows = failed.assign(level=[f"failed (%), at most {100 * level:g}" for level in failed.failure_probability])
    cells = table(
        rows, ["level"], "probability", lambda one: f"{100 * one.value.item():.3f}", ["true probability of the class"]
    )
    return note + "promise.\n\n" + cells


def certify_photos(records: pd.DataFrame) -> str:
    """Certified accuracy on photos from radius 0 on, with each network: errors over images."""
    records = records.assign(sigma=records.sigma.map("{:g}".format))
    (draws,), (level,), images = records.draws.unique(), records.failure_probability.unique(), records.image.nunique()
    rows = []
    for (model, network, sigma), own in records.groupby(["model", "network", "sigma"], sort=False):
        reached = [at_radius(own, radius).value.tolist() for radius in PHOTO_RADII]
        abstained = (100.0 * (own.prediction == -1)).tolist()
        rows.append([model, network, sigma, *map(mean_and_error, [*reached, abstained])])
    head = ["classifier", "network", "sigma", *(f"{radius:g}" for radius in PHOTO_RADII), "abstained (%)"]
    note = f"{images} photos; {draws:,} draws, failure probability {level:g}; standard errors over photos.\n\n"
    return note + markdown(head, rows)


def _gain(without: pd.DataFrame, reached: pd.DataFrame) -> str:
    before, after = (own.groupby("image", sort=False).value.mean() for own in (without, reached))
    return mean_and_error((after - before).tolist(), sign="+")


def _note(records: pd.DataFrame) -> str:
    (draws,), (level,) = records.draws.unique(), records.failure_probability.unique()
    images, seeds = records.image.nunique(), records.seed.nunique()
    return (
        f"Certified accuracy (%) at l2 radius .5 to 3 on [0, 1] pixels; {images} test images, the same and with the "
        f"same draws for all; {draws:,} draws, failure probability {level:g}, {seeds} seeds.\n\n"
    )


TABLES = {
    "certify": lambda: certify(frame("certify")),
    "certify_sigmas": lambda: certify_sigmas(frame("certify")),
    "certify_matched": lambda: certify_matched(frame("certify_matched")),
    "certify_photos": lambda: certify_photos(frame("certify_photos")),
    "certify_coverage": lambda: certify_coverage(frame("certify_coverage", metric="failed")),
}
