"""The parts of the page that are plain HTML: small print, errors, the row of views. And the page's style."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable

import PIL.Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

INTRODUCTION = """# DiffAug
DiffAug diffuses an image to time t and takes one denoising step back with a pretrained score network. The result is an
augmentation to train on. At test time, a classifier's mean over such views at several t (DE, the DiffAug-Ensemble)
adapts it to covariate shift. [Sastry et al., NeurIPS 2024](https://arxiv.org/abs/2306.09192)"""
CSS = """
.note {color: var(--body-text-color); opacity: .75; margin: 0}
.note.error {color: var(--error-text-color); opacity: 1; background: var(--error-background-fill); padding: 8px 12px;
    border: 1px solid var(--error-border-color); border-radius: 6px}
.views {display: grid; grid-template-columns: repeat(auto-fill, minmax(76px, 1fr)); gap: 8px}
.views figure {margin: 0; text-align: center; font-size: var(--text-xs); line-height: 1.4}
.views img {width: 100%; image-rendering: pixelated; border-radius: 4px}
.picture label.float {position: static; border: none; box-shadow: none; background: none}
.picture img {width: 100%; height: 100%; object-fit: contain; image-rendering: pixelated}
#picture .image-container {height: calc(100% - 28px)}
#samples .gallery {gap: 6px}
#samples .gallery-item .container {width: 62px; height: 62px}
#samples .gallery-item img {width: 100%; height: 100%}
"""


def note(*sentences: str) -> str:
    """A paragraph of small print."""
    return f'<p class="note">{html.escape(" ".join(sentences))}</p>'


def problem(error: Exception) -> str:
    """An error's message as one paragraph that stands out."""
    return f'<p class="note error" role="alert">{html.escape(" ".join(str(error).split()))}</p>'


def row_of_views(views: Iterable[Tensor], captions: Iterable[tuple[str, str]]) -> str:
    """A row of images (3, H, W) in [0, 1] that wraps. Each has a caption of two lines."""
    figures = ""
    for view, (first, second) in zip(views, captions):
        figures += f'<figure><img src="{data_address(view)}" alt="{html.escape(first)}">'
        figures += f"<figcaption>{html.escape(first)}<br>{html.escape(second)}</figcaption></figure>"
    return f'<div class="views">{figures}</div>'


def data_address(image: Tensor) -> str:
    """A PNG of the image, at most 128 pixels wide and high, as a data: address, which needs no file."""
    picture = F.to_pil_image(image)
    picture.thumbnail((128, 128), PIL.Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
