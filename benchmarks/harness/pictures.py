"""Grids of small images and matplotlib figures, written as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffaug_transforms.figures import save_grid

#: The height of an image in a grid, in pixels. Grids here are wide, and a page makes a wide picture's letters small.
CELL = 64


def draw_rows(
    rows: Mapping[str, Sequence[Tensor | None]], columns: Sequence[str], path: Path, *, cell: int = CELL
) -> None:
    """A named row of images, (C, H, W) in [0, 1] or None for no image, under the titles of the columns."""
    blank = torch.ones_like(next(image for images in rows.values() for image in images if image is not None))
    filled = [torch.stack([blank if x is None else x for x in images]).float().cpu() for images in rows.values()]
    save_grid(filled, list(columns), list(rows), path, cell=cell)


def stretch(images: Tensor) -> Tensor:
    """Each image's 1st percentile to 0 and its 99th to 1, over all its channels, and cut there. (B, C, H, W)."""
    low, high = (images.flatten(1).quantile(q, dim=1).reshape(-1, 1, 1, 1) for q in (0.01, 0.99))
    return ((images - low) / (high - low)).clamp(0, 1)


def new_figure(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """A matplotlib figure without a window, of ``size`` inches, and its panels as an array (rows, columns)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save_figure(figure: Any, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, **{"dpi": 110, **options})
    print(f"Wrote {path}")
