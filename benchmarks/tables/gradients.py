"""Tables of gradients, jacobian and entropy_over_time."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ..harness.tables import frame, in_order, over_seeds, table, with_error

MODES = ("alone", "noisy", "partial", "total")


def gradient_table(records: pd.DataFrame, metric: str) -> str:
    """100 times a metric over t, mean ± standard error over seeds: a line for each classifier and mode."""
    own = records[records.metric == metric]
    own = own.assign(value=100 * own.value, t=[f"t = {t}" for t in own.timestep])
    own = in_order(own, recipe=own.recipe.unique(), mode=MODES, timestep=sorted(own.timestep.unique()))
    return table(own, ["recipe", "mode"], "t", header=["classifier", "gradient"])


def jacobian(records: pd.DataFrame) -> str:
    """What Theorem 1 says of a score network, and what is found, by t."""
    titles = {
        ("random", "asymmetry"): ("‖J - Jᵀ‖ / ‖J‖", 3),
        ("leading", "asymmetry"): ("the same, leading directions", 3),
        ("random", "predicted_mse"): ("error by Theorem 1", 4),
        ("random", "mse"): ("mean squared error", 4),
        ("random", "mse_ratio"): ("ratio", 3),
    }
    digits = dict(titles.values())
    named = [titles.get(key, ("", 0))[0] for key in zip(records["mode"], records.metric)]
    found = records.assign(column=named).sort_values("timestep", kind="stable")
    return table(
        found[found.column != ""],
        ["timestep"],
        "column",
        lambda one: with_error(digits[one.column.item()])(one),
        header=["t"],
        across=digits,
    )


def entropy_over_time(records: pd.DataFrame, timesteps: Sequence[int] = (0, 100, 250, 500, 750, 999)) -> str:
    """Entropy in nats and accuracy in percent of each recipe's predictions, over t."""
    digits = {"entropy": 2, "accuracy": 1}
    own = in_order(records, recipe=records.recipe.unique(), metric=digits, timestep=timesteps)
    header = ["recipe", "at t ="]
    return table(
        own, ["recipe", "metric"], "timestep", lambda c: over_seeds(c, digits[c.metric.iloc[0]]), header=header
    )


TABLES = {
    "gradient_scores": lambda: gradient_table(frame("gradients"), "score_cosine"),
    "gradient_alignment": lambda: gradient_table(frame("gradients"), "centred_cosine"),
    "jacobian": lambda: jacobian(frame("jacobian")),
    "entropy_over_time": lambda: entropy_over_time(frame("entropy_over_time")),
}
