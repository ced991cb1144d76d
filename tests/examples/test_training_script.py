"""examples/train_score_network.py, run as a user runs it, on a handful of images: killed, resumed, finished."""

from __future__ import annotations

import subprocess
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from image_data import LabelledImages
from photo_crops import RandomScaleCrop, draw_photo_timesteps, photo_loss_weights, repeat_by_shares
from train_score_network import build_unet, draw_noise, draw_uniform_timesteps, load_teacher, teachers_noise

from diffaug_transforms import load_score_network
from diffaug_transforms.images import sample_images
from diffaug_transforms.score import NoiseSchedule
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
    [(20, [32] * 4, "size must be a multiple of 8, with 4 widths. Got 20"), (8, [40], "multiples of 16. Got")],
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
    batch = draw_noise(pixels, torch.arange(64) % 10, 10, 0.5, (0, 1, 2), draw_uniform_timesteps)
    assert (batch["x_0"].min(), batch["x_0"].max()) == (-1, 1)
    into_stratum = batch["timesteps"] - torch.arange(64) * 1000 // 64  # each is 15.625 wide
    assert 0 <= into_stratum.min() < into_stratum.max() <= 16
    dropped = batch["labels"] == 10
    assert torch.equal(batch["labels"][~dropped], (torch.arange(64) % 10)[~dropped])
    assert 16 < dropped.sum() < 48
    assert draw_noise(pixels, torch.arange(64), 0, 0.5, (0, 1, 2), draw_uniform_timesteps)["labels"] is None
    again, other = (
        draw_noise(pixels, torch.arange(64) % 10, 10, 0.5, (0, step, 2), draw_uniform_timesteps) for step in (1, 3)
    )
    assert torch.equal(batch["noise"], again["noise"])
    assert not torch.equal(batch["noise"], other["noise"])


def test_a_small_network_on_blocks_of_pixels_learns_from_a_teacher(data, tmp_path):
    small = ["--patch-size", 2, "--blocks", 1, "--widths", 16, 32, "--no-attention", "--teacher", "cifar10"]
    run(SCRIPT, "--data", data, "--output", tmp_path / "out", *small, *OPTIONS)
    network = load_score_network(tmp_path / "out" / "network")
    assert (network.stride, network.image_size, network.num_classes) == (4, 32, 8)


def test_photos_of_any_size_from_two_sources(data, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, image in sample_images().items():
        image.resize((60, 45)).save(photos / f"{name}.png")
    options = ["--any-size", "--size", 32, "--widths", 16, 32, "--patch-size", 2, "--shares", 3, 1]
    run(SCRIPT, "--data", photos, data, "--output", tmp_path / "out", *options, *OPTIONS)
    network = load_score_network(tmp_path / "out" / "network")
    assert (network.image_size, network.num_classes) == (None, None)


def test_teachers_noise_has_the_labels_that_are_not_dropped():
    teacher = load_teacher("cifar10", 32, torch.device("cpu")).float()
    x_t, t = torch.randn(4, 3, 32, 32), torch.tensor([10, 200, 500, 900])
    labels = torch.tensor([3, 10, 7, 10])
    found = teachers_noise(teacher, x_t, t, labels, 10)
    for i, label in enumerate([[3], None, [7], None]):
        one = teacher.eps(x_t[i : i + 1], t[i : i + 1], None if label is None else torch.tensor(label))
        torch.testing.assert_close(found[i : i + 1], one, rtol=1e-4, atol=1e-4)
    unlabelled = teachers_noise(teacher, x_t, t, None, 0)
    torch.testing.assert_close(unlabelled[1], found[1], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="size must be the teacher's, 32. Got 64"):
        load_teacher("cifar10", 64, torch.device("cpu"))


def test_crops_of_photos_have_one_size_and_keep_their_scale_half_of_the_time():
    ramp = PIL.Image.fromarray(torch.arange(90, dtype=torch.uint8).repeat(70, 1)[..., None].repeat(1, 1, 3).numpy())
    crop = RandomScaleCrop(20)
    torch.manual_seed(0)
    slopes = []
    for _ in range(200):
        found = torch.tensor(np.asarray(crop(ramp)), dtype=torch.float32)
        assert found.shape == (20, 20, 3)
        slopes.append(abs(float(found[10, 15, 0] - found[10, 5, 0])) / 10)  # grey levels a pixel: 1 at the own scale
    assert 60 < sum(abs(slope - 1) < 0.01 for slope in slopes) < 140
    assert min(slopes) > 0.6
    assert 2 < max(slopes) < 3
    assert crop(ramp.resize((12, 9))).size == (20, 20)


def test_photos_see_little_noise_half_of_the_time():
    timesteps = draw_photo_timesteps(1001, torch.Generator().manual_seed(0))
    assert len(timesteps) == 1001
    assert 0.58 < (timesteps < 200).float().mean() < 0.62
    assert timesteps.max() >= 995
    weights = photo_loss_weights(NoiseSchedule.named("linear", 1000))
    assert weights[0] == 0.3
    assert weights[-1] == 3.0
    assert bool((weights.diff() >= 0).all())


def test_shares_of_sources():
    assert repeat_by_shares([400, 1000, 10_000], [2, 1, 1]) == [50, 10, 1]
    assert repeat_by_shares([5], [0.1]) == [1]
    for shares in ([1.0], [1.0, -1.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="shares must be a positive number for each of 2 sources. Got"):
            repeat_by_shares([1, 2], shares)


def test_sources_with_and_without_labels_are_not_joined():
    with_labels, without = LabelledImages([None], [0], ["cat"], None), LabelledImages([None], [-1], [], None)
    with pytest.raises(ValueError, match="all data must have labels, or none"):
        with_labels.join(without)
    assert without.join(without).labels == [-1, -1]
