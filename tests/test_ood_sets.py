"""Folders of images out of distribution: flat, nested, resized, broken."""

from __future__ import annotations

import io
import pickle

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader

from diffaug_transforms.robustness.ood_sets import read_image_folder


def write(path, colour, size=(40, 30), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, colour).convert(mode).save(path)


def test_folders_flat_and_nested(tmp_path):
    folder = tmp_path / "textures"
    write(folder / "b.png", "lime", mode="P")
    write(folder / "images" / "banded" / "c.JPG", "blue")
    write(folder / "a.webp", "white", mode="L")
    (folder / "images" / "._c.jpg").touch()
    (folder / "notes.txt").touch()
    (folder / "folder.jpg").mkdir()
    data = read_image_folder(folder, 16)
    pixels = torch.stack(list(data))
    assert (data.name, data.labels, pixels.dtype, pixels.shape) == ("textures", [()] * 3, torch.uint8, (3, 3, 16, 16))
    expected = torch.tensor([[255, 255, 255], [0, 255, 0], [0, 0, 254]])
    assert (pixels[..., 8, 8].int() - expected).abs().max() <= 2
    assert not data.correct(torch.rand(3, 10), range(3)).any()
    assert torch.equal(pickle.loads(pickle.dumps(data)).subset(2)[1], data.subset(2)[1])
    assert len(next(iter(DataLoader(data, batch_size=3)))) == 3


def test_folder_images_are_cut_like_the_in_distribution_ones(tmp_path):
    """Shorter side 32, then the 28 in the middle, against PIL's own bilinear."""
    rng = np.random.default_rng(0)
    image = PIL.Image.fromarray(rng.integers(256, size=(64, 96, 3), dtype=np.uint8))
    image.save(tmp_path / "a.png")
    small = np.array(image.resize((48, 32), PIL.Image.Resampling.BILINEAR))[2:30, 10:38]
    assert np.array_equal(read_image_folder(tmp_path, 28, resize=32)[0].permute(1, 2, 0).numpy(), small)
    square = np.array(image.resize((48, 32), PIL.Image.Resampling.BILINEAR))[:, 8:40]
    assert np.array_equal(read_image_folder(tmp_path, 32)[0].permute(1, 2, 0).numpy(), square)


def test_broken_folders(tmp_path):
    with pytest.raises(OSError, match="there is no folder .*absent"):
        read_image_folder(tmp_path / "absent", 32)
    with pytest.raises(OSError, match="there are no images"):
        read_image_folder(tmp_path, 32)
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    (tmp_path / "half.png").write_bytes(buffer.getvalue()[:60])
    with pytest.raises(OSError, match=r"half.png is no whole image"):
        read_image_folder(tmp_path, 32)[0]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"size": 0}, "size must be an integer of at least 1. Got 0"),
        ({"size": (32, 32)}, r"size must be an integer of at least 1. Got \(32, 32\)"),
        ({"size": 32, "resize": 31}, "resize must be at least the size, 32. Got 31"),
        ({"size": 32, "resize": 40.5}, "resize must be an integer of at least 1. Got 40.5"),
    ],
    ids=str,
)
def test_wrong_sizes(tmp_path, sizes, message):
    with pytest.raises(ValueError, match=message):
        read_image_folder(tmp_path, **sizes)
