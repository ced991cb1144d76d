"""The benchmarks' own arithmetic, and that their scripts run and write tidy records."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffaug_transforms.figures import sample_images

datasets = pytest.importorskip("datasets")
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import denoising  # noqa: E402
import tables  # noqa: E402
import throughput  # noqa: E402

NEEDED = {"benchmark", "network", "metric", "value", "n", "seed"}


def run(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, str(BENCHMARKS / script), *arguments], check=True, timeout=200)


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
    features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"img": list(sample_images().values()), "label": [0] * 8}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
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
