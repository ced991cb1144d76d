"""Labelled grids of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from .arguments import as_integer, as_path, check_instance
from .images import check_channels, to_batch

#: Sizes in a grid, in pixels: the side of an image, the gap after it, the row of headings, and the narrowest margin.
CELL, GAP, TOP, LEFT = 96, 4, 28, 84


def fit_to_network(image: PIL.Image.Image, image_size: int | None) -> Tensor:
    """Resize the shorter side to the network's size and cut out the centre: uint8 (3, image_size, image_size).

    None is the size of a network for images of any size: the image stays as it is.
    """
    if image_size is None:
        return F.pil_to_tensor(image.convert("RGB"))
    check_instance("image", image, PIL.Image.Image)
    image_size = as_integer("image_size", image_size, 1)
    resized = F.resize(image.convert("RGB"), [image_size], antialias=True)
    return F.pil_to_tensor(F.center_crop(resized, [image_size, image_size]))


def draw_grid(
    rows: Sequence[Tensor], columns: Sequence[str], labels: Sequence[str], *, cell: int = CELL
) -> PIL.Image.Image:
    """Draw a grid of images with a heading over each column and a label beside each row.

    Args:
        rows: one tensor (columns, C, H, W) per row, uint8 or in [0, 1].
        columns: the headings.
        labels: one per row. The margin grows with the longest one.
        cell: the height of every image in the picture, in pixels. All get the width that the first one has then.

    Raises:
        ValueError, TypeError: another number of labels than of rows, or of images in a row than of columns.

    Example:
        >>> draw_grid([torch.rand(2, 3, 32, 32)], ["t = 0", "t = 50"], ["cat"]).size
        (284, 128)
    """
    for name, value in (("rows", rows), ("columns", columns), ("labels", labels)):
        check_instance(name, value, (Sequence, Tensor))
    for name in (*columns, *labels):
        check_instance("columns and labels", name, str)
    if len(labels) != len(rows):
        raise ValueError(f"labels must be one per row, {len(rows)}. Got {len(labels)}")
    for row in rows:
        check_instance("rows", row, (Sequence, Tensor), " of images")
        if len(row) != len(columns):
            raise ValueError(f"each row must have one image per column, {len(columns)}. Got {len(row)}")
        for image in row:
            check_instance("images", image, Tensor, " (C, H, W)")
            check_channels(to_batch(image), 1, 3)
    cell = as_integer("cell", cell, 1)
    first = next((image for row in rows for image in row), None)
    across = cell if first is None else max(1, round(cell * first.shape[-1] / first.shape[-2]))
    font = PIL.ImageFont.load_default(size=14)
    left = max([LEFT, *(math.ceil(font.getlength(label)) + 11 for label in labels)])
    width, height = left + len(columns) * (across + GAP), TOP + len(rows) * (cell + GAP)
    canvas = PIL.Image.new("RGB", (width, height), "white")
    draw = PIL.ImageDraw.Draw(canvas)
    for j, heading in enumerate(columns):
        draw.text((left + j * (across + GAP) + across // 2, TOP // 2), heading, fill="black", font=font, anchor="mm")
    for i, (row, label) in enumerate(zip(rows, labels)):
        y = TOP + i * (cell + GAP)
        draw.text((left - 8, y + cell // 2), label, fill="black", font=font, anchor="rm")
        for j, image in enumerate(row):
            # Nearest keeps the pixels of small images visible. Large images are made smaller smoothly.
            smaller = image.shape[-1] > across
            method = PIL.Image.Resampling.LANCZOS if smaller else PIL.Image.Resampling.NEAREST
            canvas.paste(F.to_pil_image(image).resize((across, cell), method), (left + j * (across + GAP), y))
    return canvas


def stack_pictures(pictures: Sequence[PIL.Image.Image]) -> PIL.Image.Image:
    """One picture below the other, on white.

    Example:
        >>> stack_pictures([PIL.Image.new("RGB", (4, 3)), PIL.Image.new("RGB", (2, 3))]).size
        (4, 6)
    """
    canvas = PIL.Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas


def save_grid(
    rows: Sequence[Tensor], columns: Sequence[str], labels: Sequence[str], path: str | Path, *, cell: int = CELL
) -> None:
    """Write ``draw_grid``'s picture to a file. Its folder is made if it is missing."""
    path = as_path("path", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_grid(rows, columns, labels, cell=cell).save(path)
