"""Certified accuracy over the radius, from certify.py's certificates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from certify_tables import certified_accuracy
from pivots import select
from records import Record


def plot_curves(records: Sequence[Record], path: Path) -> None:
    """A panel for each sigma, a curve for each recipe: all its seeds' certificates together."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sigmas = sorted({r["sigma"] for r in records})
    figure, panels = plt.subplots(1, len(sigmas), figsize=(10, 3.4), layout="constrained", sharey=True, squeeze=False)
    for panel, sigma in zip(panels[0], sigmas):
        here = select(records, sigma=sigma)
        radii = np.linspace(0, 1.02 * max(r["value"] for r in here), 200).tolist()
        for i, recipe in enumerate(dict.fromkeys(r["recipe"] for r in here)):
            own = select(here, recipe=recipe)
            curve = [certified_accuracy(own, radius) for radius in radii]
            panel.plot(radii, curve, "-" if "diffaug" in recipe else "--", color=f"C{i}", label=recipe)
        panel.set(xlabel="l2 radius (pixels in [0, 1])", title=f"sigma {sigma:g}", ylim=(0, None))
    panels[0][0].set_ylabel("certified accuracy (%)")
    panels[0][-1].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
