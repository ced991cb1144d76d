"""examples/train_score_network.py, run as a user runs it, on a handful of images: killed, resumed, finished."""

from __future__ import annotations

import subprocess
from pathlib import Path

import datasets
import pytest
import torch
from train_score_network import build_unet, draw_noise

from diffaug_transforms import load_score_network
from diffaug_transforms.images import sample_images
from tests.examples.training import run, run_and_kill

SCRIPT = "train_score_network.py"
OPTIONS = ["--steps", "6", "--batch-size", "4", "--checkpoint-every", "2", "--mixed-precision", "no"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's sample images as a dataset in the Hub's layout."""
    folder = tmp_path_factory.mktemp("data")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"img": list(sample_images().values()), "label": list(range(8))}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "train-00000-of-00001.parquet")
    return folder


def test_a_killed_run_resumes_to_the_same_network(data, tmp_path):
    run(SCRIPT, "--data", data, "--output", tmp_path / "whole", *OPTIONS)
    run_and_kill(SCRIPT, tmp_path / "killed", "--data", data, *OPTIONS)
    assert not (tmp_path / "killed" / "network").exists()
    run(SCRIPT, "--data", data, "--output", tmp_path / "killed", *OPTIONS)
    whole, resumed = (load_score_network(tmp_path / name / "network") for name in ("whole", "killed"))
    for a, b in zip(whole.unet.parameters(), resumed.unet.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3)  # fp16 weights; summation order differs between runs
    assert whole.null_class == 8


def test_photos_of_another_size_without_labels_and_one_damaged(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, image in sample_images().items():
        image.resize((40, 30)).save(photos / f"{name}.jpg")
    (photos / "cat.jpg").write_bytes((photos / "cat.jpg").read_bytes()[:400])
    options = ["--data", photos, "--size", 16, "--widths", 32, 32, "--steps", 5, "--batch-size", 4, "--workers", 2]
    with pytest.raises(subprocess.CalledProcessError):
        run(SCRIPT, *options, "--output", tmp_path / "strict")
    run(SCRIPT, *options, "--output", tmp_path / "out", "--skip-unreadable")
    network = load_score_network(tmp_path / "out" / "network")
    assert (network.image_size, network.num_classes, network.null_class) == (16, None, None)
    (line,) = (tmp_path / "out" / "skipped.txt").read_text().splitlines()
    assert line.startswith(f"{photos / 'cat.jpg'} is no whole picture")


@pytest.mark.parametrize(
    ("size", "widths", "message"),
    [(20, [32] * 4, "size must be a multiple of 8, with 4 widths. Got 20"), (8, [48], "multiples of 32. Got")],
)
def test_sizes_that_do_not_fit(size, widths, message):
    with pytest.raises(ValueError, match=message):
        build_unet(size, widths, 0)


def test_the_embedded_networks_shape():
    unet = build_unet(32, [64, 96, 128, 96], 10)
    embedded = load_score_network("cifar10").unet
    assert {name: p.shape for name, p in unet.named_parameters()} == {
        name: p.shape for name, p in embedded.named_parameters()
    }


def test_one_steps_draws():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(64, 1, 2, 2).repeat(1, 3, 1, 1)
    batch = draw_noise(pixels, torch.arange(64) % 10, 10, 0.5, (0, 1, 2))
    assert (batch["x_0"].min(), batch["x_0"].max()) == (-1, 1)
    into_stratum = batch["timesteps"] - torch.arange(64) * 1000 // 64  # each is 15.625 wide
    assert 0 <= into_stratum.min() < into_stratum.max() <= 16
    dropped = batch["labels"] == 10
    assert torch.equal(batch["labels"][~dropped], (torch.arange(64) % 10)[~dropped])
    assert 16 < dropped.sum() < 48
    assert draw_noise(pixels, torch.arange(64), 0, 0.5, (0, 1, 2))["labels"] is None
    again, other = (draw_noise(pixels, torch.arange(64) % 10, 10, 0.5, (0, step, 2)) for step in (1, 3))
    assert torch.equal(batch["noise"], again["noise"])
    assert not torch.equal(batch["noise"], other["noise"])
