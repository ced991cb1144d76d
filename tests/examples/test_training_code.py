"""docs/training_code.md: every piece of code runs where its libraries are installed, and the claims beside it hold."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from diffaug_transforms import DiffAug
from diffaug_transforms.classifiers import load_classifier
from diffaug_transforms.images import sample_images

PAGE = Path(__file__).parents[2] / "docs" / "training_code.md"
#: The pieces of code under each heading.
CODE: dict[str, list[str]] = {}
for part in re.split(r"^##+ ", PAGE.read_text(), flags=re.M)[1:]:
    CODE[part.partition("\n")[0]] = re.findall(r"^```python\n(.*?)^```", part, re.S | re.M)
PIECES = [(heading, place) for heading, pieces in CODE.items() for place in range(len(pieces))]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a piece of code as a module of its own, in an empty folder; skip if a library is missing."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)

    def run_piece(heading: str, place: int = 0) -> ModuleType:
        code = CODE[heading][place]
        for library in sorted(set(re.findall(r"^(?:import|from) (\w+)", code, re.M))):
            if library == "robustbench":
                prepare_robustbench(monkeypatch, tmp_path)
            pytest.importorskip(library)
        module = ModuleType("piece_of_training_code")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(code, f"{heading}, {place}", "exec"), module.__dict__)
        return module

    return run_piece


def prepare_robustbench(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The package that RobustBench from PyPI lacks, and a CIFAR-10-C with one corruption, which changes nothing."""
    if not importlib.util.find_spec("autoattack") and importlib.util.find_spec("pyautoattack"):
        monkeypatch.setitem(sys.modules, "autoattack", importlib.import_module("pyautoattack"))
        monkeypatch.setitem(sys.modules, "autoattack.state", importlib.import_module("pyautoattack.state"))
    data = pytest.importorskip("robustbench.data", exc_type=ImportError)
    monkeypatch.setattr(data, "CORRUPTIONS", data.CORRUPTIONS[:1])
    names, pictures = zip(*list(sample_images().items())[:4])
    classes = load_classifier("cifar10-diffaug").classes
    pixels = np.zeros((40_004, 32, 32, 3), np.uint8)
    for first in range(0, 50_000, 10_000):  # a part for each severity
        pixels[first : first + 4] = np.stack([np.asarray(picture) for picture in pictures])
    (folder / "data" / "CIFAR-10-C").mkdir(parents=True)
    np.save(folder / "data" / "CIFAR-10-C" / "labels.npy", [classes.index(name) for name in names])
    for name in data.CORRUPTIONS:
        np.save(folder / "data" / "CIFAR-10-C" / f"{name}.npy", pixels)


#: Those that a test below runs.
TESTED = [
    ("timm", 0),
    ("timm", 1),
    ("PyTorch Lightning", 0),
    ("Hugging Face datasets", 1),
    ("albumentations and NumPy", 1),
    ("timm's validate", 1),
    ("RobustBench", 0),
    ("pytorch-ood", 0),
]


@pytest.mark.parametrize(("heading", "place"), [piece for piece in PIECES if piece not in TESTED])
def test_code_runs(heading, place, run):
    run(heading, place)


def test_every_library_has_code():
    assert len(PIECES) == 16
    assert set(TESTED) <= set(PIECES)


@pytest.mark.parametrize("prefetcher", [True, False])
def test_a_loader_of_timm_normalises_and_the_error_says_what_to_do(prefetcher):
    data = pytest.importorskip("timm.data")
    from torchvision.datasets import FakeData

    options = {"batch_size": 4, "num_workers": 0, "is_training": True, "device": torch.device("cpu")}
    loader = data.create_loader(FakeData(4, (3, 32, 32)), 32, use_prefetcher=prefetcher, **options)
    images, _ = next(iter(loader))
    with pytest.raises(ValueError, match="put this before Normalize"):
        DiffAug("cifar10")(images)


def test_with_mean_0_timm_gives_images_in_0_to_1(run):
    piece = run("timm")
    assert piece.config["mean"] == (0.485, 0.456, 0.406)
    assert piece.images.dtype == piece.views.dtype == torch.float32
    assert 0 <= piece.images.min() < 0.1
    assert 0.9 < piece.images.max() <= 1
    assert piece.soft_labels.shape == (8, 10)
    loader = piece.create_loader(
        piece.data, 32, 4, is_training=True, mean=(0.0,) * 3, std=(1.0,) * 3, device=piece.device, num_workers=0,
        re_prob=1.0, re_mode="pixel",
    )  # fmt: skip
    assert next(iter(loader))[0].min() < 0  # random erasing, as the page says


def test_without_the_prefetcher_timm_gives_uint8(run):
    piece = run("timm", 1)
    assert piece.images.dtype == piece.views.dtype == torch.uint8


def test_lightning_augments_only_in_training_and_saves_no_network(run):
    piece = run("PyTorch Lightning")
    model = piece.trainer.lightning_module
    assert piece.trainer.global_step == 2
    assert 0 <= piece.trainer.callback_metrics["accuracy"] <= 1
    assert all(name.startswith("classifier.") for name in model.state_dict())
    assert all(name.startswith("classifier.") for name, _ in model.named_parameters())


def test_map_of_hugging_face_makes_views_once(run, tmp_path):
    piece = run("Hugging Face datasets", 1)
    pixels = np.asarray(piece.data[0]["image"]).astype(int)
    assert piece.row["label"] == piece.once[0]["label"] == 0
    assert np.abs(np.asarray(piece.row["image"]) - pixels).mean() > 1
    assert np.abs(np.asarray(piece.once[0]["image"]) - pixels).mean() > 1
    piece.data.save_to_disk(tmp_path / "saved")
    from datasets import load_from_disk

    saved = load_from_disk(tmp_path / "saved")
    first, again = (saved.map(piece.augment, batched=True) for _ in range(2))
    other = saved.map(piece.augment, batched=True, new_fingerprint="second")
    assert np.array_equal(first[0]["image"], again[0]["image"])
    assert not np.array_equal(first[0]["image"], other[0]["image"])


def test_albumentations_wants_diffaug_before_normalize(run):
    piece = run("albumentations and NumPy", 1)
    assert piece.image.shape == (3, 32, 32)
    assert piece.image.dtype == torch.float32
    steps = [piece.A.Lambda(image=piece.diffaug), *piece.pipeline.transforms[2:]]
    picture, mask = np.full((32, 32, 3), 128, np.uint8), np.eye(32, dtype=np.uint8)
    assert np.array_equal(piece.A.Compose(steps)(image=picture, mask=mask)["mask"], mask)
    picture[0] = 0
    with pytest.raises(ValueError, match="put this before Normalize"):
        piece.A.Compose([steps[1], steps[0]])(image=picture)


def test_the_model_for_pipelines_that_normalise(run):
    piece = run("timm's validate", 1)
    assert piece.timm.models.is_model("resnet18_diffaug")
    model = piece.timm.create_model("resnet18", num_classes=10).eval()
    wrapped = piece.Unnormalized(model, "cifar10").eval()
    images = torch.rand(2, 3, 32, 32)
    normalised = wrapped.robust.normalize(images)
    torch.manual_seed(1)
    expected = wrapped.robust(images)
    torch.manual_seed(1)
    torch.testing.assert_close(wrapped(normalised), expected, atol=1e-3, rtol=1e-3)
    assert wrapped(torch.randn(2, 3, 32, 32)).isfinite().all()  # validate.py's warm-up


def test_robustbench(run):
    piece = run("RobustBench")
    assert len(piece.accuracies) == 5
    assert piece.score > 0.6


def test_pytorch_ood_scores_the_highest_probability(run):
    piece = run("pytorch-ood")
    from pytorch_ood.detector import EnergyBased

    torch.manual_seed(1)
    expected = -piece.robust.predict_proba(piece.known[:1]).amax(1)
    torch.manual_seed(1)
    torch.testing.assert_close(piece.detector(piece.known[:1]), expected)
    torch.testing.assert_close(EnergyBased(piece.robust)(piece.known[:1]), torch.zeros(1), atol=1e-5, rtol=0)
