"""Examples of every set as the classifiers see them, and how far apart two classifiers' scores of them lie."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torchvision.utils import make_grid

from diffaug_transforms.robustness import auroc

from ..harness.pictures import new_figure, save_figure
from .sets import ImageSet

#: By method: of images in distribution, and of those out of it.
Scores = dict[str, tuple[Tensor, Tensor]]
EXAMPLES = 5
METHODS = {"msp": "MSP", "scale": "SCALE"}
RECIPES = ("baseline", "diffaug")


class Judged(NamedTuple):
    """A classifier's scores of a set."""

    recipe: str
    seed: int
    known: ImageSet
    images: ImageSet
    scores: Scores


def draw_sets(judged: Sequence[Judged], path: Path) -> None:
    """A row for each set: EXAMPLES images, then a panel for each of METHODS and RECIPES, of the first seed there is."""
    sets = {j.images.name: j.images for j in reversed(judged)}
    names = dict.fromkeys(j.images.name for j in judged)
    rows = [judged[0].known, *sorted((sets[name] for name in names), key=lambda images: images.distance == "far")]
    columns = list(product(METHODS, RECIPES))
    figure, panels = new_figure(
        len(rows), 1 + len(columns), (12.5, 1.1 * len(rows)), width_ratios=(EXAMPLES, *[2] * len(columns))
    )
    for images, (examples, *densities) in zip(rows, panels):
        draw_examples(examples, images)
        for panel, (method, recipe) in zip(densities, columns):
            own = [j for j in judged if (j.images.name, j.recipe) == (images.name, recipe)]
            draw_densities(panel, sorted(own, key=lambda j: j.seed)[:1], method)
    for panel, (method, recipe) in zip(panels[0, 1:], columns):
        panel.set_title(f"{METHODS[method]}, {recipe}", y=0.3, fontsize=11)
    handles, labels = panels[1, 1].get_legend_handles_labels()
    panels[0, 1].legend(handles, labels, loc=(0, 0), fontsize=9, frameon=False, ncols=2).set_in_layout(False)
    note = "score: higher to the right; number: AUROC in percent"
    panels[0, 3].text(0, 0.1, note, fontsize=9, transform=panels[0, 3].transAxes).set_in_layout(False)
    save_figure(figure, path, dpi=100)


def draw_examples(panel: Any, images: ImageSet) -> None:
    grid = make_grid(images.pixels[:EXAMPLES], nrow=EXAMPLES, padding=1, pad_value=255)
    panel.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    panel.set(xticks=[], yticks=[])
    panel.set_frame_on(False)
    distance = "in distribution" if images.distance == "id" else f"{images.distance} OOD"
    panel.set_ylabel(f"{images.name}\n({distance})", rotation=0, ha="right", va="center", fontsize=10)


def draw_densities(panel: Any, judged: Sequence[Judged], method: str) -> None:
    """Histograms of the scores, bars as high as the root of the density, and the AUROC; empty for no classifier."""
    # The root, so that what is outside the bar of sure answers can be seen.
    panel.set_yscale("function", functions=(np.sqrt, np.square))
    for j in judged:
        pair = [scores.numpy() for scores in j.scores[method]]
        low, high = np.quantile(np.concatenate(pair), [0.005, 0.995])
        for scores, label in zip(pair, ("in distribution", "OOD")):
            panel.hist(scores.clip(low, high), np.linspace(low, high, 31), density=True, alpha=0.6, label=label)
        panel.set_ylim(0, 1.9 * panel.get_ylim()[1])
        panel.set_title(f"{100 * auroc(*pair):.1f}", x=0.97, y=0.74, ha="right", fontsize=9)
    panel.set(xticks=[], yticks=[])
    panel.minorticks_off()
    panel.set_frame_on(bool(judged))
