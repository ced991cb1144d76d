"""The tables of certified accuracy, of its coverage, and of entropy over time, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev

from pivots import mean_over_seeds, pick, rows, select, with_diffaug
from records import Record

#: The paper's.
RADII = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)


def holds(record: Record, radius: float) -> bool:
    """Whether a certificate is of the right class and reaches at least this radius. Abstaining is never right."""
    return record["prediction"] == record["label"] and record["value"] >= radius


def certified_accuracy(records: Sequence[Record], radius: float) -> float:
    """Percent of certificates that hold."""
    return 100 * mean(float(holds(r, radius)) for r in records)


def certify_table(records: Sequence[Record]) -> str:
    """Certified accuracy by radius, of each recipe the best sigma at each radius; then what DiffAug gains.

    A recipe's error is over its seeds; a gain's is over images, each with the mean over its seeds.
    """
    recipes = list(dict.fromkeys(r["recipe"] for r in records))
    body = [[recipe, *(certified_cell(records, recipe, radius) for radius in RADII)] for recipe in recipes]
    for without, reached in ((name, with_diffaug(name)) for name in recipes if with_diffaug(name) in recipes):
        gains = [_gain(_best(records, without, r), _best(records, reached, r), r) for r in RADII]
        body.append([f"{without} to {reached}", *gains])
    return _note(records) + rows(["recipe, radius", *(f"{radius:g}" for radius in RADII)], body)


def certified_cell(records: Sequence[Record], recipe: str, radius: float) -> str:
    """A recipe's certified accuracy at a radius, with the best sigma."""
    return _cell(_best(records, recipe, radius), radius)


def sigmas_table(records: Sequence[Record]) -> str:
    """Of each sigma and recipe: certified accuracy from radius 0 on, and how many images it abstains at."""
    body = []
    for sigma in sorted({r["sigma"] for r in records}):
        for recipe in dict.fromkeys(r["recipe"] for r in records):
            own = select(records, sigma=sigma, recipe=recipe)
            abstained = [{**r, "value": 100 * (r["prediction"] == -1)} for r in own]
            cells = [_cell(own, radius) for radius in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)]
            body.append([f"{sigma:g}", recipe, *cells, mean_over_seeds(abstained)])
    return rows(["sigma", "recipe", "0", "0.25", "0.5", "0.75", "1", "1.5", "abstained (%)"], body)


def coverage_table(records: Sequence[Record]) -> str:
    """How often simulated certificates fail, against what they promise: probabilities of the class across."""
    probabilities = sorted({r["probability"] for r in records})
    body = []
    for level in sorted({r["failure_probability"] for r in records}):
        here = select(records, failure_probability=level)
        failed = [pick(here, metric="failed", probability=p) for p in probabilities]
        body.append([f"failed (%), at most {100 * level:g}", *(f"{100 * r['value']:.3f}" for r in failed)])
    (number,), (draws,) = ({r[key] for r in records} for key in ("n", "draws"))
    largest = max(r["standard_error"] / r["failure_probability"] for r in select(records, metric="failed"))
    note = f"{number:,} certificates of {draws:,} draws each; a standard error is at most {100 * largest:.1f} % of the "
    return note + "promise.\n\n" + rows(["true probability of the class", *(f"{p:g}" for p in probabilities)], body)


def entropy_table(records: Sequence[Record], timesteps: Sequence[int] = (0, 100, 250, 500, 750, 999)) -> str:
    """Entropy in nats and accuracy in percent of each recipe's predictions, over t."""
    body = []
    for recipe in dict.fromkeys(r["recipe"] for r in records):
        for metric, digits in (("entropy", 2), ("accuracy", 1)):
            own = [select(records, recipe=recipe, timestep=t, metric=metric) for t in timesteps]
            body.append([recipe, metric, *(mean_over_seeds(part, digits=digits) for part in own)])
    return rows(["recipe", "at t =", *map(str, timesteps)], body)


def _best(records: Sequence[Record], recipe: str, radius: float) -> list[Record]:
    """A recipe's certificates at the sigma that certifies most at this radius."""
    sigmas = sorted({r["sigma"] for r in records})
    return max(
        (select(records, recipe=recipe, sigma=s) for s in sigmas), key=lambda own: certified_accuracy(own, radius)
    )


def _cell(records: Sequence[Record], radius: float) -> str:
    return mean_over_seeds([{**r, "value": 100 * holds(r, radius)} for r in records])


def _gain(without: Sequence[Record], reached: Sequence[Record], radius: float) -> str:
    gains = [
        certified_accuracy(select(reached, image=image), radius)
        - certified_accuracy(select(without, image=image), radius)
        for image in dict.fromkeys(r["image"] for r in without)
    ]
    return f"{mean(gains):+.1f} ± {stdev(gains) / len(gains) ** 0.5:.1f}"


def _note(records: Sequence[Record]) -> str:
    images = len({r["image"] for r in records})
    seeds = len({r["seed"] for r in records})
    (draws,), (level,) = ({r[key] for r in records} for key in ("draws", "failure_probability"))
    return (
        f"Certified accuracy (%) at l2 radius .5 to 3 on [0, 1] pixels; {images} test images, the same and with the "
        f"same draws for all; {draws:,} draws, failure probability {level:g}, {seeds} seeds.\n\n"
    )
