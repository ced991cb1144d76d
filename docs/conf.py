"""Settings of the documentation: `sphinx-build -W --keep-going -b html docs docs/_build/html` (extra `docs`)."""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import PIL.Image

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

import diffaug_transforms  # noqa: E402
from diffaug_transforms.cli import build_parser  # noqa: E402

project = "diffaug_transforms"
author = "the diffaug_transforms maintainers"
copyright = "2026, the diffaug_transforms maintainers. MIT licence"
version = release = diffaug_transforms.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# generated/ is included as text, and notebooks are the copies that make_gallery makes.
exclude_patterns = ["_build", "generated"]

nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"diffaug_transforms {version}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}


GALLERY = """# Gallery

Notebooks from `examples/`, along the package's data flow, with the outputs that they were saved with.

To run them, you need `pip install ".[gallery,train,benchmarks]"`. Open them in the folder `examples/`: its folder
`cifar10_small` holds a part of CIFAR-10. If it is not beside them, notebooks 2, 3, 4, 6 and 9 download CIFAR-10.

| | |
| --- | --- |
"""
TOCTREE = """
```{toctree}
:hidden:

"""
#: The width of a notebook's picture on the gallery's page, in pixels.
THUMBNAIL = 440


def make_gallery() -> None:
    """A page with a picture, the title and the first words of each notebook, and copies of the notebooks.

    Sphinx reads only what lies in its own folder.
    """
    gallery = HERE / "gallery"
    shutil.rmtree(gallery, ignore_errors=True)
    gallery.mkdir()
    notebooks = sorted((ROOT / "examples").glob("*.ipynb"))
    rows = []
    for notebook in notebooks:
        shutil.copy2(notebook, gallery)
        cells = json.loads(notebook.read_text())["cells"]
        title, _, words = "".join(cells[0]["source"]).partition("\n\n")
        words = " ".join(words.partition("\n\n")[0].split())
        last_picture(cells).save(gallery / f"{notebook.stem}.png")
        picture = f"[![{title[2:]}]({notebook.stem}.png)]({notebook.name})"
        rows.append(f"| {picture} | **[{title[2:]}]({notebook.name})**<br>{words} |\n")
    names = "\n".join(path.stem for path in notebooks)
    (gallery / "index.md").write_text(f"{GALLERY}{''.join(rows)}{TOCTREE}{names}\n```\n")


def last_picture(cells: list[dict]) -> PIL.Image.Image:
    """The last picture in a notebook's outputs, at most ``THUMBNAIL`` pixels wide."""
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    data = [output["image/png"] for output in outputs if "image/png" in output][-1]
    picture = PIL.Image.open(io.BytesIO(base64.b64decode("".join(data)))).convert("RGB")
    picture.thumbnail((THUMBNAIL, THUMBNAIL), PIL.Image.Resampling.LANCZOS)
    return picture


def write_help() -> None:
    """What `diffaug COMMAND --help` prints, a text file a command."""
    os.environ |= {"COLUMNS": "100", "NO_COLOR": "1"}
    folder = HERE / "generated"
    folder.mkdir(exist_ok=True)
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    for name, parser in commands.choices.items():
        (folder / f"{name}.txt").write_text(parser.format_help())


def link_to_gallery(app: Any, name: str, source: list[str]) -> None:
    """Links to examples/, which lead somewhere on GitHub, become links to the copies that make_gallery makes."""
    link = r"\]\(\.\./((?:\.\./)*)examples/((?:\w+\.ipynb)?)\)"
    source[0] = re.sub(link, lambda found: f"]({found[1]}gallery/{found[2] or 'index.md'})", source[0])


def setup(app: Any) -> None:
    app.connect("source-read", link_to_gallery)


make_gallery()
write_help()
