"""The tables of input gradients and of the denoiser's Jacobian, as Markdown, from gradients.py's and jacobian.py's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pivots import gains, mean_over_seeds, pick, rows, select, with_diffaug
from records import Record

MODES = ("alone", "noisy", "partial", "total")


def gradient_table(records: Sequence[Record], metric: str) -> str:
    """100 times a metric over t, mean ± standard error of seeds: a row for each classifier and mode."""
    own = _in_percent(select(records, metric=metric))
    steps = sorted({r["timestep"] for r in own})
    body = []
    for recipe in dict.fromkeys(r["recipe"] for r in own):
        body += [[recipe, *line] for line in _lines(select(own, recipe=recipe), steps)]
    return rows(["classifier", "gradient", *(f"t = {t}" for t in steps)], body)


def gradient_effect(records: Sequence[Record], metric: str) -> str:
    """100 times what a metric gains by DiffAug in training, paired by seed, under each recipe."""
    own = _in_percent(select(records, metric=metric))
    steps = sorted({r["timestep"] for r in own})
    body = []
    for recipe in dict.fromkeys(r["recipe"] for r in own):
        other = with_diffaug(recipe)
        paired = gains(select(own, recipe=recipe), select(own, recipe=other), "seed", "mode", "timestep")
        body += [[f"{recipe} to {other}", *line] for line in _lines(paired, steps, sign="+")]
    return rows(["from, to", "gradient", *(f"t = {t}" for t in steps)], body)


def jacobian_table(records: Sequence[Record]) -> str:
    """What Theorem 1 says of a score network, and what is found, by t."""
    steps = sorted({r["timestep"] for r in records})
    columns = (
        ("random", "asymmetry", 3),
        ("leading", "asymmetry", 3),
        ("random", "predicted_mse", 4),
        ("random", "mse", 4),
        ("random", "mse_ratio", 3),
    )
    body = []
    for t in steps:
        found = [(pick(records, timestep=t, mode=mode, metric=metric), digits) for mode, metric, digits in columns]
        cells = [f"{r['value']:.{digits}f} ± {r['standard_error']:.{digits}f}" for r, digits in found]
        body.append([str(t), *cells])
    asymmetry = ("‖J - Jᵀ‖ / ‖J‖", "the same, leading directions")
    return rows(["t", *asymmetry, "error by Theorem 1", "mean squared error", "ratio"], body)


def _in_percent(records: Iterable[Record]) -> list[Record]:
    return [{**r, "value": 100 * r["value"]} for r in records]


def _lines(records: Sequence[Record], steps: Sequence[int], sign: str = "") -> list[list[str]]:
    """A line for each mode there is: its name, and its mean over seeds at each t."""
    modes = [mode for mode in MODES if select(records, mode=mode)]
    return [[m, *(mean_over_seeds(select(records, mode=m, timestep=t), sign) for t in steps)] for m in modes]
