"""Running the benchmarks: their folder on the path, their scripts as a user runs them, a small CIFAR-10."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from diffaug_transforms.classifiers import NormalizedClassifier, build_model, save_classifier
from diffaug_transforms.figures import sample_images

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
sys.path.insert(0, str(BENCHMARKS))


def run(script: str, *arguments: object, launcher: Sequence[str] = ()) -> None:
    command = [sys.executable, *launcher, str(BENCHMARKS / script), *map(str, arguments)]
    subprocess.run(command, check=True, timeout=200, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})


def write_dataset(folder: Path) -> Path:
    """The eight sample images as both splits of CIFAR-10 in the Hub's layout."""
    import datasets

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    images = sample_images()
    rows = datasets.Dataset.from_dict({"img": list(images.values()), "label": list(images)}, features=features)
    for split in ("train", "test"):
        rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def write_classifier(folder: Path, recipe: str, seed: int) -> Path:
    """A small classifier with random weights, as the training script leaves it."""
    torch.manual_seed(seed)
    model = NormalizedClassifier(build_model("cifar_resnet-8", 10), [0.5], [0.5])
    facts = {"images": 5, "seconds": 1.0, "arguments": {"steps": 1, "recipe": recipe, "seed": seed}}
    save_classifier(model, folder, "cifar_resnet-8", classes=list(CLASSES), **facts)
    return folder
