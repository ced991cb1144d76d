"""The certification benchmark: certificates from votes, tables by hand, coverage, and a run that resumes."""

from __future__ import annotations

import argparse
import json
import sys

import pytest
import torch
from torch import nn

from diffaug_transforms import load_score_network
from diffaug_transforms.robustness import DenoisedSmoothing

from .benchmark_runs import write_classifier, write_dataset

for module in ("accelerate", "cv2", "datasets", "scipy"):
    pytest.importorskip(module)

import certify  # noqa: E402
import certify_coverage  # noqa: E402
import entropy_over_time  # noqa: E402
import train_known_classes  # noqa: E402
from certify_plot import plot_curves  # noqa: E402
from certify_tables import certify_table, coverage_table, entropy_table, sigmas_table  # noqa: E402


def certificate(recipe: str, seed: int, image: int, sigma: float, radius: float, prediction: int = 1) -> dict:
    named = {"recipe": recipe, "seed": seed, "image": image, "sigma": sigma}
    return {**named, "label": 1, "prediction": prediction, "value": radius, "draws": 10, "failure_probability": 0.1}


def certificates() -> list[dict]:
    """Two images: sigma .25 certifies both at .5 with DiffAug and one without; sigma 1 one, at 2."""
    records = []
    for seed in (0, 1):
        for recipe, first, second in (("baseline", 0.6, 0.4), ("diffaug", 0.6, 0.5)):
            records += [certificate(recipe, seed, image, 0.25, r) for image, r in ((7, first), (8, second))]
            records += [certificate(recipe, seed, 7, 1.0, 2.0), certificate(recipe, seed, 8, 1.0, 0.0, prediction=-1)]
    return records


def test_the_table_takes_the_best_sigma_at_each_radius():
    lines = certify_table(certificates()).splitlines()
    assert "2 test images" in lines[0]
    assert lines[4].startswith("| baseline | 50.0 ± 0.0 | 50.0 ± 0.0 | 50.0 ± 0.0 | 50.0 ± 0.0 | 0.0 ± 0.0 |")
    assert lines[5].startswith("| diffaug | 100.0 ± 0.0 | 50.0 ± 0.0 |")
    # Paired over images: one gains 100, the other 0.
    assert lines[6].startswith("| baseline to diffaug | +50.0 ± 50.0 | +0.0 ± 0.0 |")


def test_the_curves_of_certificates_that_hold(tmp_path):
    plot_curves(certificates(), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_wrong_and_abstaining_certificates_never_count():
    records = [certificate("baseline", 0, 1, 0.5, 9.0, prediction=2), certificate("baseline", 0, 2, 0.5, 0.0, -1)]
    assert "| 0.5 | baseline | 0.0 | 0.0 | 0.0 | 0.0 | 0.0 | 0.0 | 50.0 |" in sigmas_table(records)


def test_votes_are_those_of_the_library():
    network = load_score_network("cifar10")
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)).requires_grad_(False)
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    smoothed = DenoisedSmoothing(classifier, network, 0.5)
    votes = certify.count_votes(smoothed, {"mine": classifier}, image, [noise[:3], noise[3:]])
    assert votes == {"mine": smoothed.counts(image, [noise]).tolist()}


@pytest.fixture
def tiny_run(tmp_path, monkeypatch):
    """Runs a benchmark's main with two classifiers and what else it is given, and returns its records."""
    data = write_dataset(tmp_path / "data")
    folders = [write_classifier(tmp_path / recipe, recipe, seed=0) for recipe in ("baseline", "diffaug")]

    def run(module, *arguments: object) -> list[dict]:
        common = ["--data", data, "--classifier", *folders, "--output", tmp_path / "out.json"]
        monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, [*common, *arguments])])
        module.main()
        return json.loads((tmp_path / "out.json").read_text())["records"]

    return run


def test_certify_resumes_and_extends(tiny_run, tmp_path, monkeypatch):
    options = ["--sigmas", 0.25, 1, "--n0", 4, "--n", 8, "--failure-probability", 0.3, "--work", tmp_path / "work"]
    first = tiny_run(certify, *options, "--images", 1)
    assert {(r["recipe"], r["sigma"]) for r in first} == {(n, s) for n in ("baseline", "diffaug") for s in (0.25, 1.0)}
    assert (tmp_path / "out.png").stat().st_size > 10_000
    count_votes, counted = certify.count_votes, []

    def counting(*arguments):
        counted.append(arguments)
        return count_votes(*arguments)

    monkeypatch.setattr(certify, "count_votes", counting)
    second = tiny_run(certify, *options, "--images", 2)
    assert second[:4] == first
    assert len(second) == 8
    assert len(counted) == 4  # two sigmas of the new image, choosing and bounding
    assert {r["draws"] for r in second} == {8}


def test_simulated_certificates_fail_no_more_than_promised():
    args = argparse.Namespace(n0=20, n=100, classes=10, seed=0, certificates=20_000)
    records = [r for p in (0.5, 0.6, 0.9) for r in certify_coverage.measure(p, 0.05, args)]
    failed = [r for r in records if r["metric"] == "failed"]
    assert all(0.01 < r["value"] <= 0.05 + 4 * r["standard_error"] for r in failed)
    assert "| failed (%), at most 5 |" in coverage_table(records)


def test_entropy_falls_short_of_the_uniform_limit(tiny_run, tmp_path):
    records = tiny_run(entropy_over_time, "--images", 4, "--every", 500)
    assert sorted({r["timestep"] for r in records}) == [0, 500, 999]
    values = [r["value"] for r in records if r["metric"] == "entropy"]
    assert all(0 < value <= 2.3026 for value in values)
    assert len(values) == 6
    assert (tmp_path / "out.png").stat().st_size > 10_000
    lines = entropy_table(records, (0, 999)).splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        [f"| {recipe}", metric] for recipe in ("baseline", "diffaug") for metric in ("entropy", "accuracy")
    ]


def test_known_classes_are_six_and_linked(tmp_path):
    for part in ("images/train", "images/test", "images_diffaug"):
        for name in train_known_classes.CLASSES:
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "0.png").touch()
    folder = train_known_classes.link_classes(tmp_path, seed=1)
    known = train_known_classes.known_classes(1)
    assert len(known) == 6
    assert known != train_known_classes.known_classes(0)
    assert sorted(path.parent.name for path in folder.glob("images/train/*/0.png")) == known
    assert train_known_classes.link_classes(tmp_path, seed=1) == folder
