"""Pictures of gradients and directions: grids of small images with a name per row and a title per column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor
from torchvision.transforms.v2 import functional as F


def draw_panels(
    rows: Mapping[str, Sequence[Tensor | None]], titles: Sequence[str], path: Path, *, cell: float = 0.8, left: float
) -> None:
    """Draw each row's images, (C, H, W) in [0, 1], or None for no image, and write a PNG.

    Args:
        rows: by their names, which stand left of them.
        titles: of the columns.
        cell, left: inches for an image and for the names.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    width, height = cell * len(titles) + left, cell * len(rows) + 0.4
    figure, panels = plt.subplots(len(rows), len(titles), figsize=(width, height), squeeze=False)
    for (name, images), line in zip(rows.items(), panels):
        for image, panel in zip(images, line):
            panel.set(xticks=[], yticks=[])
            if image is None:
                panel.axis("off")
            else:
                panel.imshow(F.to_pil_image(image), interpolation="nearest")
        line[0].text(-0.08, 0.5, name, transform=line[0].transAxes, fontsize=9, ha="right", va="center")
    for title, panel in zip(titles, panels[0]):
        panel.set_title(title, fontsize=9)
    margins = {"left": left / width, "right": 0.998, "bottom": 0.003, "top": 1 - 0.4 / height}
    figure.subplots_adjust(**margins, wspace=0.04, hspace=0.04)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def stretch(images: Tensor) -> Tensor:
    """Each image's 1st percentile to 0 and its 99th to 1, over all its channels, and cut there. (B, C, H, W)."""
    low, high = (images.flatten(1).quantile(q, dim=1).reshape(-1, 1, 1, 1) for q in (0.01, 0.99))
    return ((images - low) / (high - low)).clamp(0, 1)
