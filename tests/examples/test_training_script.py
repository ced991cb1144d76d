"""examples/train_score_network.py, run as a user runs it, on a handful of images: killed, resumed, finished."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
import torch

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
