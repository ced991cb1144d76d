"""The parts of the page that are plain HTML: small print, errors, the answers' cards, rows of pictures."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable, Sequence
from importlib import metadata

import PIL.Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

PAPER = "https://arxiv.org/abs/2306.09192"
#: Where the documentation is if no web address of it is known.
DOCUMENTATION = "Documentation: the folder docs/ of the project."
#: Pictures up to this side are drawn with their pixels visible.
SMALL = 96
#: How many classes an answer's card lists.
LISTED = 3


def introduction() -> str:
    """The heading, what the page is about, and where to read on."""
    found = links_to_read()
    links = "".join(
        f'<a href="{html.escape(address)}" target="_blank">{html.escape(name)}</a>' for name, address in found
    )
    where = "" if "Documentation" in dict(found) else DOCUMENTATION
    return (
        '<div class="intro"><h1>DiffAug</h1><p>DiffAug adds noise to a picture, and a diffusion network removes it '
        "again in one step. If a classifier averages its answers over several such views, it is more often right about "
        f'damaged pictures.</p><p>{links}<a class="to-settings" href="#settings">Settings</a>{where}</p></div>'
    )


def links_to_read() -> list[tuple[str, str]]:
    """(label, address): the paper, and each web address that the installed package names, such as its documentation."""
    try:
        entries = metadata.metadata("diffaug-transforms").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        entries = []
    found = {address: label for label, _, address in (entry.partition(", ") for entry in entries)}
    found = {PAPER: "Paper"} | {address: label for address, label in found.items() if address.startswith("https://")}
    return [(label, address) for address, label in found.items()]


def note(*sentences: str) -> str:
    """A paragraph of small print."""
    return f'<p class="note">{html.escape(" ".join(sentences))}</p>'


def problem(error: Exception) -> str:
    """An error's message as one paragraph that stands out, and what to do."""
    message = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    message = message[0].upper() + message[1:]
    advice = "The results are still those from before. Change your last choice, or try again."
    return f'<p class="note error" role="alert">{html.escape(f"{message}. {advice}")}</p>'


def card(title: str, seen: str, classes: Sequence[str], probabilities: Tensor, how: str, truth: str | None) -> str:
    """One answer: what was seen, the likeliest class, the first few classes with a bar each, and how it came about.

    Args:
        title: the heading.
        seen: HTML of the picture.
        classes: the names of the K classes.
        probabilities: (K,).
        how: a sentence.
        truth: the right class if it is known. The card then says whether the answer is right.
    """
    order = probabilities.argsort(descending=True)[:LISTED].tolist()
    best = classes[order[0]]
    kind = "" if truth not in classes else " right" if best == truth else " wrong"
    mark = f'<p class="mark">{"✓ right" if best == truth else "✗ wrong"}</p>' if kind else ""
    bars = ""
    for index in order:
        name, share = html.escape(classes[index]), f"{probabilities[index]:.0%}"
        bars += f'<div class="bar"><span title="{name}">{name}</span><span>{share}</span>'
        bars += f'<i><b style="width: {share}"></b></i></div>'
    says = f'<div><p class="says">{html.escape(best)}</p>{mark}{bars}</div>'
    return (
        f'<section class="card{kind}"><h2>{html.escape(title)}</h2>{seen}{says}<p class="how">{html.escape(how)}</p>'
        "</section>"
    )


def cards(*each: str) -> str:
    return f'<div class="cards">{"".join(each)}</div>'


def mosaic(images: Sequence[Tensor]) -> str:
    """Many small pictures in a square, for a card."""
    columns = math.ceil(math.sqrt(len(images)))
    pictures = "".join(picture(image, "", 64) for image in images)
    style = f"grid-template-columns: repeat({columns}, 1fr)"
    return f'<div class="seen mosaic" style="{style}">{pictures}</div>'


def figures(kind: str, images: Iterable[Tensor], captions: Iterable[Sequence[str]]) -> str:
    """A row of pictures, each with a caption of some lines. ``kind`` is the row's class in the style."""
    row = ""
    for image, lines in zip(images, captions):
        caption = "<br>".join(html.escape(line) for line in lines)
        row += f"<figure>{picture(image, lines[0])}<figcaption>{caption}</figcaption></figure>"
    return f'<div class="{kind}">{row}</div>'


def python(code: str) -> str:
    """Code that scrolls inside of its box."""
    return f'<div class="python"><pre>{html.escape(code)}</pre></div>'


def section(title: str, text: str) -> str:
    """A heading and a sentence below it."""
    return f'<h2 class="section">{html.escape(title)}</h2>{note(text)}'


def picture(image: Tensor, description: str, side: int = 256, kind: str = "") -> str:
    """An image (3, H, W), uint8 or in [0, 1], as HTML. ``kind`` is a class of the style."""
    kinds = " ".join(filter(None, [kind, "pixels" if image.shape[-1] <= SMALL else ""]))
    return f'<img class="{kinds}" src="{data_address(image, side)}" alt="{html.escape(description)}">'


def data_address(image: Tensor, side: int = 256) -> str:
    """A PNG of the image, at most ``side`` pixels wide and high, as a data: address, which needs no file."""
    drawn = F.to_pil_image(image)
    drawn.thumbnail((side, side), PIL.Image.Resampling.LANCZOS)
    file = io.BytesIO()
    drawn.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
