"""The benchmarks' own arithmetic, and that their scripts run and write tidy records."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from .benchmark_runs import run, write_classifier, write_dataset

pytest.importorskip("datasets")

import cifar10_sets
import denoising
import tables
import throughput
import train_cifar10
import training_step

NEEDED = {"benchmark", "network", "metric", "value", "n", "seed"}


def test_psnr_by_hand():
    # A mean squared error of 0.04 on the [-1, 1] scale, peak 2: 10 log10(4 / 0.04) = 20 dB.
    truth = torch.zeros(1, 3, 4, 4)
    assert denoising.psnr(truth + 0.2, truth).item() == pytest.approx(20, abs=1e-4)


def test_flops_by_hand():
    class OneConvolution(torch.nn.Conv2d):
        def eps(self, x_t, timesteps):
            return self(x_t)

    # 2 * 3 * 3 * 3 * 8 operations for each of 16 * 16 pixels.
    count = throughput.unet_flops(OneConvolution(3, 8, 3, padding=1), torch.rand(1, 3, 16, 16))  # type: ignore[arg-type]
    assert count == 2 * 27 * 8 * 256


def test_medians_are_taken_over_rounds():
    calls = []
    methods = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    assert set(throughput.time_interleaved(methods, 3, "cpu")) == {"a", "b"}
    assert "".join(calls) == "aabb" + "ab" * 3


def test_denoising_script(tmp_path, network):
    write_dataset(tmp_path / "data")
    output = tmp_path / "denoising.json"
    run("denoising.py", "--data", str(tmp_path / "data"), "--limit", "8", "--output", str(output))
    result = json.loads(output.read_text())
    assert set(result) == {"command", "created", "device", "versions", "records"}
    assert all(set(r) >= NEEDED for r in result["records"])
    psnr = {
        r["timestep"]: r["value"] for r in result["records"] if (r["metric"], r["mode"]) == ("psnr", "unconditional")
    }
    noisy = {r["timestep"]: r["value"] for r in result["records"] if r["mode"] == "noisy input"}
    assert list(psnr) == list(range(50, 901, 50))
    assert all(psnr[t] > noisy[t] for t in (100, 200, 300))


def test_throughput_script(tmp_path, network):
    network.save_pretrained(tmp_path / "network")
    output = tmp_path / "throughput.json"
    options = ["--network", str(tmp_path / "network"), "--batch-size", "2", "--ensemble-images", "1", "--rounds", "1"]
    run("throughput.py", *options, "--output", str(output))
    records = json.loads(output.read_text())["records"]
    assert all(set(r) >= NEEDED and r["value"] is not None for r in records)
    assert {r["metric"] for r in records} >= {"images_per_second", "time_ratio", "matmul_share"}


def test_tables_are_pivots_of_the_records(monkeypatch):
    record = {"metric": "eps_mse", "value": 0.03125, "standard_error": 0.0004, "n": 10}
    both = [{**record, "mode": mode} for mode in ("unconditional", "conditional")]
    monkeypatch.setattr(tables, "read_records", lambda script: both)
    assert "| unconditional | 0.0312 ± 0.0004 | 10 |" in tables.eps_mse()


def test_the_mean_over_seeds_by_hand():
    values = {0: (70.0, 72.0), 1: (74.0, 76.0), 2: (78.0, 80.0)}
    records = [{"seed": seed, "value": value} for seed, pair in values.items() for value in pair]
    # Means 71, 75, 79 of standard deviation 4: 4 / sqrt(3) = 2.3.
    assert tables.mean_over_seeds(records) == "75.0 ± 2.3"
    assert tables.mean_over_seeds(records[:2]) == "71.0"


def test_the_effect_of_diffaug_is_paired_by_seed(monkeypatch):
    accuracy = {("baseline", 0): 60.0, ("baseline", 1): 70.0, ("diffaug", 0): 66.0, ("diffaug", 1): 74.0}
    sets = [("cifar10", "clean"), ("cifar10-c", "fog")]
    records = [
        {"recipe": recipe, "seed": seed, "dataset": dataset, "corruption": corruption, "mode": mode, "value": value}
        for (recipe, seed), value in accuracy.items()
        for dataset, corruption in sets
        for mode in ("default", "de")
    ]
    monkeypatch.setattr(tables, "read_records", lambda script: records)
    # Gains of 6 and 4: a mean of 5, a standard deviation of sqrt(2), a standard error of 1.
    assert tables.diffaug_effect().splitlines()[-1] == "| baseline to diffaug |" + " +5.0 ± 1.0 |" * 4


def test_classifiers_are_judged_clean_and_corrupted_alone_and_as_ensembles(tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    write_dataset(tmp_path / "data")
    write_classifier(tmp_path / "work" / "augmix-1", "augmix", 1)
    options = ["--data", str(tmp_path / "data"), "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", ["", *options, "--images", "2", "--clean-images", "3"])
    args = train_cifar10.parse_arguments()
    records = train_cifar10.evaluate(args, "augmix", 1)
    assert len(records) == 1 + 1 + 15 * 2
    assert {(r["dataset"], r["mode"], r["n"]) for r in records} == {
        ("cifar10", "default", 8),
        ("cifar10", "de", 3),
        ("cifar10-c", "default", 2),
        ("cifar10-c", "de", 2),
    }
    assert all(set(r) >= NEEDED - {"network"} | {"model", "recipe", "corruption", "severity"} for r in records)
    views = cifar10_sets.ensemble_views("contrast", args.data, 2, tmp_path / "work" / "views")
    assert views.shape == (10, 2, 3, 32, 32)
    images, _ = cifar10_sets.load_test_images(args.data, 2)
    contrast = views[0].float().std(dim=(-1, -2)) / (images / 255).std(dim=(-1, -2))
    assert contrast.mean().item() == pytest.approx(0.15, abs=0.01)  # CIFAR-10-C's factor at severity 5


def test_the_plan_holds_every_recipe_and_several_seeds_of_the_main_ones(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["", "--seeds", "3"])
    runs = train_cifar10.plan(train_cifar10.parse_arguments())
    assert len(set(runs)) == len(runs) == 10 + 2 * len(train_cifar10.SEVERAL_SEEDS)
    assert {name for name, seed in runs if seed == 2} == set(train_cifar10.SEVERAL_SEEDS)


def test_samples_are_of_the_labels_asked_for(null_conditional):
    labels = torch.tensor([0, 1, 0])
    first, again = (
        cifar10_sets.synthesize(null_conditional, labels, 3, torch.Generator().manual_seed(0)) for _ in range(2)
    )
    other = cifar10_sets.synthesize(null_conditional, labels + 1, 3, torch.Generator().manual_seed(0))
    assert first.shape == (3, 3, 16, 16)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_cost_of_a_step_is_a_ratio_to_the_one_without_diffaug(monkeypatch):
    monkeypatch.setattr(sys, "argv", [""])
    runs = {
        "no DiffAug": [{"seconds_per_step": s, "peak_bytes": 100} for s in (1.0, 2.0, 9.0)],
        "in the loop": [{"seconds_per_step": s, "peak_bytes": 150} for s in (7.0, 8.0, 9.0)],
    }
    made = training_step.records(training_step.parse_arguments(), runs)
    values = {(r["method"], r["metric"]): r["value"] for r in made}
    assert values["in the loop", "time_ratio"] == 4
    assert values["in the loop", "memory_ratio"] == 1.5
