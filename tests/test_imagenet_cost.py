"""The arithmetic of benchmarks/imagenet_cost.py, by hand and on small networks."""

from __future__ import annotations

import argparse

import pytest
import torch

from . import benchmark_runs  # noqa: F401  # puts benchmarks/ on the path
from .conftest import tiny_unet

pytest.importorskip("diffusers")

import cost_tables
import imagenet_cost

ASSUMED = {"gpu": "X", "peak_tflops": 100.0, "utilisation": 0.5, "classifier_utilisation": 0.25, "jpeg_bytes": 1.0}


def test_operations_by_hand():
    layer = torch.nn.Conv2d(3, 8, 3, padding=1, device="meta")
    # 2 * 3 * 3 * 3 * 8 operations for each of 16 * 16 pixels.
    assert imagenet_cost.count_operations(lambda: layer(torch.rand(1, 3, 16, 16, device="meta"))) == 2 * 27 * 8 * 256


def test_peak_bytes_by_hand():
    def run() -> None:
        first = torch.empty(1000, device="meta")  # 4000 bytes
        second = first + 1  # 8000 together
        del first
        third = second.view(10, 100) * 2  # the view costs nothing: 8000 again
        del second, third

    assert imagenet_cost.count_peak_bytes(run) == 8000


def test_hours_by_hand():
    operations = {
        "U-Net, 224 pixels": 1e12,
        "U-Net, 256 pixels": 2e12,
        "U-Net with its gradient, 224 pixels": 3e12,
        "ResNet-50, 224 pixels": 1e9,
        "ResNet-50 training, 224 pixels": 3e9,
    }
    args = argparse.Namespace(**ASSUMED)
    # 50 TFLOP/s for the network: 180,000 calls of 1 TFLOP in 3600 s; 25 TFLOP/s for the classifier.
    assert imagenet_cost.hours(imagenet_cost.Work(unet=180_000), operations, args) == pytest.approx(1)
    assert imagenet_cost.hours(imagenet_cost.Work(unet_prepared=90_000), operations, args) == pytest.approx(1)
    assert imagenet_cost.hours(imagenet_cost.Work(unet_gradient=60_000), operations, args) == pytest.approx(1)
    assert imagenet_cost.hours(imagenet_cost.Work(classifier=90_000_000), operations, args) == pytest.approx(1)
    assert imagenet_cost.hours(imagenet_cost.Work(classifier_training=30e6), operations, args) == pytest.approx(1)


def test_records_make_tables(monkeypatch):
    small = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 7, 32), torch.nn.Flatten(), torch.nn.LazyLinear(5))
    small(torch.rand(1, 3, 224, 224))
    monkeypatch.setattr(imagenet_cost, "build_classifier", lambda: small.to("meta", torch.bfloat16))
    monkeypatch.setattr(imagenet_cost, "build_unet", lambda: tiny_unet().to("meta", torch.bfloat16))
    records = imagenet_cost.records(argparse.Namespace(**ASSUMED))
    assert {r["metric"] for r in records} == {"flop_per_image", "hours", "bytes", "disk_bytes"}
    assert all(r["value"] > 0 for r in records)
    hours = cost_tables.hours_table(records)
    assert "X of 100 TFLOP/s peak" in hours
    assert "50 % of it by the U-Net (50 TFLOP/s)" in hours
    assert "| JPEG | 1 | 84 |" in cost_tables.disk_table(records)  # 1,281,167 images of 256 * 256 bytes
    assert len(cost_tables.bytes_table(records).splitlines()) == 11
    assert len(cost_tables.operations_table(records).splitlines()) == 7
