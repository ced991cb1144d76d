"""examples/train_score_network.py, run as a user runs it, on a handful of images: killed, resumed, finished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from diffaug_transforms import load_score_network
from diffaug_transforms.figures import sample_images

pytest.importorskip("accelerate")
datasets = pytest.importorskip("datasets")

SCRIPT = Path(__file__).parent.parent / "examples" / "train_score_network.py"
OPTIONS = ["--steps", "6", "--batch-size", "4", "--checkpoint-every", "2", "--mixed-precision", "no"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's sample images as a dataset in the Hub's layout."""
    folder = tmp_path_factory.mktemp("data")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"img": list(sample_images().values()), "label": list(range(8))}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "train-00000-of-00001.parquet")
    return folder


def command(data: Path, output: Path) -> list[str]:
    return [sys.executable, str(SCRIPT), "--data", str(data), "--output", str(output), *OPTIONS]


def test_a_killed_run_resumes_to_the_same_network(data, tmp_path):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command(data, tmp_path / "whole"), check=True, env=environment, timeout=200)
    killed = subprocess.Popen(command(data, tmp_path / "killed"), env=environment)
    step = tmp_path / "killed" / "checkpoint" / "progress.json"
    deadline = time.monotonic() + 100
    while not step.exists() and time.monotonic() < deadline and killed.poll() is None:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert step.exists()
    assert not (tmp_path / "killed" / "network").exists()
    subprocess.run(command(data, tmp_path / "killed"), check=True, env=environment, timeout=200)
    whole, resumed = (load_score_network(tmp_path / name / "network") for name in ("whole", "killed"))
    for a, b in zip(whole.unet.parameters(), resumed.unet.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3)  # fp16 weights; summation order differs between runs
    assert whole.null_class == 10
