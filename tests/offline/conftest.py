"""Folders of pictures, and a small network in a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from torchvision.transforms.v2 import functional as F

from tests import contracts


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder tree of two classes, two sizes, two formats, and a file that is no image."""
    folder = tmp_path / "photos"
    for name, size in {"a/one.png": 16, "a/two.jpg": 16, "b/three.png": 24, "b/deep/four.png": 16}.items():
        save_picture(folder / name, size, seed=len(name))
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def saved(network, tmp_path: Path) -> str:
    network.save_pretrained(tmp_path / "network")
    return str(tmp_path / "network")


def save_picture(path: Path, size: int = 16, seed: int = 0) -> None:
    """A picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    F.to_pil_image(contracts.images(size, batch=1, seed=seed)[0]).save(path)


def files(folder: Path) -> dict[str, bytes]:
    """All files but the record of the options."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".diffaug.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
