"""A small CIFAR-10, small classifiers, and a way to run a benchmark's main."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.classifiers import NormalizedClassifier, build_model, save_classifier
from diffaug_transforms.images import sample_images
from tests.conftest import tiny_unet

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
Run = Callable[..., list[dict[str, Any]]]


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Without the extras there is nothing to run here."""
    needed = ("accelerate", "cv2", "datasets", "matplotlib", "pandas", "prdc", "torch_fidelity", "torchmetrics")
    from importlib.util import find_spec

    return None if all(map(find_spec, needed)) else True


def write_dataset(folder: Path, side: int = 32) -> Path:
    """The eight sample images, enlarged to ``side``, as both splits of CIFAR-10 in the Hub's layout."""
    import datasets

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    images = {name: image.resize((side, side)) for name, image in sample_images().items()}
    rows = datasets.Dataset.from_dict({"img": list(images.values()), "label": list(images)}, features=features)
    for split in ("train", "test"):
        rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def write_classifier(folder: Path, recipe: str, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> Path:
    """A small classifier with random weights, as the training script leaves it."""
    torch.manual_seed(seed)
    model = NormalizedClassifier(build_model("cifar_resnet-8", len(classes)), [0.5], [0.5])
    metadata = {
        "images": 5,
        "seconds": 1.0,
        "test_accuracy": 50.0,
        "arguments": {"steps": 1, "recipe": recipe, "seed": seed},
    }
    save_classifier(model, folder, "cifar_resnet-8", classes=list(classes), **metadata)
    return folder


@pytest.fixture(scope="session")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("cifar10"))


@pytest.fixture(scope="session")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("classifiers")
    return [write_classifier(folder / recipe, recipe) for recipe in ("baseline", "diffaug")]


@pytest.fixture
def classes_network(schedule: Any) -> ScoreNetwork:
    """16 pixels, ten classes and a null class."""
    return ScoreNetwork(tiny_unet(num_class_embeds=11), schedule, null_class=10)


@pytest.fixture
def network_folder(tmp_path: Path, classes_network: ScoreNetwork) -> Path:
    classes_network.save_pretrained(tmp_path / "network")
    return tmp_path / "network"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a benchmark's main with these arguments and gives its records; pictures are at out.png."""

    def run(module: ModuleType, *arguments: object) -> list[dict[str, Any]]:
        output = tmp_path / "out.json"
        monkeypatch.setattr(sys, "argv", ["", *map(str, arguments), "--output", str(output)])
        module.main()
        result = json.loads(output.read_text())
        assert list(result) == ["command", "created", "device", "versions", "records"]
        assert len(output.read_text().splitlines()) == len(result["records"]) + 8
        assert all({"benchmark", "metric", "value"} <= set(r) for r in result["records"])
        return result["records"]

    return run
