"""Accuracy and entropy of a classifier on one-step denoised views, over t: when does a corrupted image turn?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from pivots import select
from records import Record


def plot_over_time(records: Sequence[Record], path: Path) -> None:
    """A panel for the accuracy and one for the entropy of DE's single views, shifted (full) and clean (dashed)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    views = select(records, mode="view")
    if not views:
        return
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    names = list(dict.fromkeys((r["model"], r["recipe"]) for r in views))
    for panel, metric in zip(panels, ("accuracy", "entropy")):
        for i, (model, recipe) in enumerate(names):
            own = select(views, model=model, recipe=recipe, metric=metric)
            for clean, style in ((False, "-"), (True, "--")):
                points = [r for r in own if (r["corruption"] == "clean") is clean]
                steps = sorted({r["timestep"] for r in points})
                curve = [mean(r["value"] for r in select(points, timestep=t)) for t in steps]
                label = None if clean else (model if recipe == "baseline" and len(names) == 1 else recipe)
                panel.plot(steps, curve, style, color=f"C{i}", marker=".", label=label)
        panel.set(xlabel="t of the view", ylabel="accuracy (%)" if metric == "accuracy" else "entropy (nats)")
    panels[0].legend(title="corrupted (full), clean (dashed)", fontsize=8, title_fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
