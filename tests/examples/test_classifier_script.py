"""examples/train_classifier.py as a user runs it: killed and resumed, on two processes, from prepared views."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from image_data import LabelledImages, load_images
from safetensors.torch import load_file
from sample_views import Batches, prepared_copies
from train_classifier import check_start, parse_arguments

from diffaug_transforms import DiffAugEnsemble
from diffaug_transforms.classifiers import load_classifier
from diffaug_transforms.cli import main as diffaug_command
from diffaug_transforms.images import sample_images
from tests.examples.training import run, run_and_kill

SCRIPT = "train_classifier.py"
OPTIONS = ["--model", "cifar_resnet-8", "--batch-size", "8", "--mixed-precision", "no", "--lr", "0.05"]
SPLITS = ("train", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample images as an image folder of four classes with a train and a test split."""
    root = tmp_path_factory.mktemp("images")
    for i, image in enumerate(sample_images().values()):
        for split in SPLITS:
            path = root / split / f"class{i % 4}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    return root


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model.safetensors")


def check_a_killed_run_resumes(tmp_path: Path, *options: object) -> None:
    """To the same classifier as a run that was never killed, which is left in the folder "whole"."""
    run(SCRIPT, "--output", tmp_path / "whole", *options)
    run_and_kill(SCRIPT, tmp_path / "killed", *options)
    assert not (tmp_path / "killed" / "classifier.json").exists()
    run(SCRIPT, "--output", tmp_path / "killed", *options, "--workers", 1)
    for a, b in zip(weights(tmp_path / "whole").values(), weights(tmp_path / "killed").values()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)  # summation order differs between runs


def test_a_killed_run_resumes_to_the_same_classifier(folder, tmp_path):
    options = ["--data", folder, "--recipe", "augmix+diffaug", "--steps", 6, "--checkpoint-every", 2, *OPTIONS]
    check_a_killed_run_resumes(tmp_path, *options)
    metadata = json.loads((tmp_path / "whole" / "classifier.json").read_text())
    assert metadata["classes"] == ["class0", "class1", "class2", "class3"]
    assert metadata["images"] == 48
    assert 0 <= metadata["test_accuracy"] <= 100
    assert list((tmp_path / "whole" / "logs").rglob("events*"))
    robust = DiffAugEnsemble(load_classifier(tmp_path / "whole"), timesteps=[0, 30])
    assert robust(torch.rand(2, 3, 32, 32)).shape == (2, 4)


def test_a_killed_transformer_with_deits_recipe_resumes_to_the_same_classifier(folder, tmp_path):
    """Mixed images, repeats, drop path and RandAugment's draws are those of the run that was never killed."""
    options = ["--data", folder, "--model", "timm/test_vit", "--recipe", "diffaug", "--mixed-precision", "no"]
    options += ["--augment", "rand-m9-mstd0.5-inc1", "--mixup", "0.8", "--cutmix", "1", "--bce", "--drop-path", "0.2"]
    options += ["--repeats", "2", "--optimizer", "lamb", "--lr", "3e-3", "--min-lr", "1e-5", "--schedule", "cosine"]
    options += ["--warmup", "2", "--steps", "6", "--batch-size", "8", "--checkpoint-every", "2"]
    check_a_killed_run_resumes(tmp_path, *options)
    assert load_classifier(tmp_path / "whole")(torch.rand(2, 3, 32, 32)).shape == (2, 4)


def test_a_killed_airbench_resumes_to_the_same_classifier(folder, tmp_path):
    """With the whitening of its training images, and Lookahead's slow weights from the checkpoint."""
    options = ["--data", folder, "--model", "airbench94", "--optimizer", "airbench", "--label-smoothing", "0.2"]
    options += ["--recipe", "baseline", "--mixed-precision", "no", "--lr", "0.05"]
    options += ["--steps", "12", "--batch-size", "8", "--checkpoint-every", "6"]
    check_a_killed_run_resumes(tmp_path, *options)
    assert load_classifier(tmp_path / "whole").model.whiten.weight.abs().max() > 1


def test_two_processes_prepared_views_extra_data_and_a_start(folder, tmp_path):
    prepared = tmp_path / "prepared"
    assert diffaug_command(["augment", str(folder / "train"), str(prepared), "--copies", "2"]) == 0
    start = tmp_path / "start"
    begin = ["--recipe", "baseline", "--output", start, "--steps", 1, "--checkpoint-every", 1, "--schedule", "constant"]
    run(SCRIPT, "--data", folder, *begin, *OPTIONS)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = ["--data", folder, "--extra-data", folder, "--diffaug-data", prepared, prepared, "--init", start]
    options += ["--init-optimizer", "--schedule", "constant"]
    both = tmp_path / "both"
    run(SCRIPT, *options, "--recipe", "diffaug", "--steps", 2, *OPTIONS, "--output", both, launcher=launcher)
    assert json.loads((both / "classifier.json").read_text())["images"] == 2 * 2 * 8
    assert not torch.equal(weights(both)["8.weight"], weights(start)["8.weight"])


def test_a_start_for_other_classes_is_refused(tmp_path):
    """With as many classes its weights would fit, and its last layer would answer with other classes' numbers."""
    (tmp_path / "classifier.json").write_text('{"classes": ["b", "a"]}')
    check_start(tmp_path, ["b", "a"])
    check_start(tmp_path / "file.pth", ["a", "b"])
    with pytest.raises(ValueError, match="init must have the data's classes, a, b. Got b, a"):
        check_start(tmp_path, ["a", "b"])


def test_images_and_prepared_copies_are_paired_by_path(folder, tmp_path):
    images = load_images(str(folder), "train")
    assert len(images) == 8
    assert images.labels == [0, 0, 1, 1, 2, 2, 3, 3]
    for path in images.paths:
        (tmp_path / path.parent).mkdir(exist_ok=True)
        for copy in (0, 1):
            (tmp_path / path.parent / f"{path.stem}_{copy}.png").touch()
    assert [len(found) for found in prepared_copies(images, tmp_path)] == [2] * 8
    (tmp_path / "class0" / "0_1.png").unlink()
    with pytest.raises(OSError, match="has 1 of 2 copies of class0/0.png"):
        prepared_copies(images, tmp_path)
    (tmp_path / "class0" / "0_0.png").unlink()
    with pytest.raises(OSError, match="has no copy of class0/0.png"):
        prepared_copies(images, tmp_path)
    assert load_images(str(folder), "validation") is None
    few, twice = images.at(images.some(4)), pickle.loads(pickle.dumps(images.join(images)))
    assert twice.labels[8:] == images.labels
    assert twice[10][0].tobytes() == images[2][0].tobytes() != images[3][0].tobytes()
    indices = [images.paths.index(path) for path in few.paths]
    assert len(set(indices)) == 4
    for i, index in enumerate(indices):
        assert few.labels[i] == few[i][1] == images.labels[index]
        assert few[i][0].tobytes() == images[index][0].tobytes()


@pytest.mark.parametrize("labels", [sorted(list(range(10)) * 50), list(range(10)) * 50])
def test_a_subset_has_all_classes_whatever_the_order(labels):
    """Sorted by class as in folders, or alternating as the rows of some data sets."""
    first, second = (LabelledImages(None, labels, list("abcdefghij"), None).some(100) for _ in range(2))
    assert {labels[i] for i in first} == set(range(10))
    assert first == second


def test_every_pass_sees_every_image_once_whatever_the_processes():
    steps = 12  # of 5 images: four passes over 15
    alone = list(Batches(15, 5, steps, seed=0))
    assert sorted(key for keys in alone[:3] for key in keys) == [(0, i) for i in range(15)]
    assert len({tuple(i for keys in alone[k : k + 3] for _, i in keys) for k in (0, 3, 6, 9)}) == 4
    assert list(Batches(15, 5, steps, seed=0, start=7)) == alone[7:]
    halves = [list(Batches(15, 5, steps // 2, seed=0, rank=rank, world=2)) for rank in (0, 1)]
    assert [keys for pair in zip(*halves) for keys in pair] == alone


@pytest.mark.parametrize(("options", "network"), [([], "cifar10"), (["--size", "224"], "photos")])
def test_the_network_fits_the_size_unless_it_is_named(tmp_path, monkeypatch, options, network):
    monkeypatch.setattr(sys, "argv", [SCRIPT, "--output", str(tmp_path), *options])
    assert parse_arguments().network == network
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--network", "cifar10-small"])
    assert parse_arguments().network == "cifar10-small"
