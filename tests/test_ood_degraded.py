"""OOD sets degraded on purpose: what is done to them, and a run on a small CIFAR-10."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from .benchmark_runs import write_classifier, write_dataset

for module in ("accelerate", "cv2", "datasets", "matplotlib"):
    pytest.importorskip(module)

import ood_degraded  # noqa: E402
import ood_inputs  # noqa: E402

from .test_ood_benchmark import write_idx, write_photos  # noqa: E402


def test_degradations():
    images = torch.zeros(2, 3, 32, 32)
    images[:, :, :, 16:] = 1
    done = {name: degrade(images) for name, degrade in ood_degraded.degradations(seed=0).items()}
    assert torch.equal(done["as it is"], images)
    assert done["half contrast"].unique().tolist() == [0.25, 0.75]
    assert torch.equal(done["inverted"], images.flip(3))
    noise = done["noise .1"] - images
    assert float(noise[:, :, :, :16].mean()) == pytest.approx(0.1 / (2 * torch.pi) ** 0.5, abs=0.002)  # clipped at 0
    # Half of a Gaussian with sigma 1 lies behind its own pixel's edge: .5 + .5 * erf(.5 / sqrt(2)) = .69.
    assert float(done["blur 1"][0, 0, 16, 16]) == pytest.approx(0.69, abs=0.02)
    assert done["blur .5"][0, 0, 16, 16] > done["blur 1"][0, 0, 16, 16]


def test_the_script(tmp_path, monkeypatch):
    write_idx(tmp_path / "fashion" / ood_inputs.FASHION_FILE, np.eye(28, dtype=np.uint8)[None] * 255)
    folders = [write_classifier(tmp_path / recipe, recipe, 3) for recipe in ("baseline", "diffaug")]
    options = ["--data", write_dataset(tmp_path / "cifar10"), "--photos", write_photos(tmp_path / "photos", [1, 963])]
    options += ["--fashion", tmp_path / "fashion", "--classifier", *folders, "--output", tmp_path / "out.json"]
    monkeypatch.setattr(sys, "argv", ["", *map(str, options)])
    ood_degraded.main()
    records = json.loads((tmp_path / "out.json").read_text())["records"]
    assert len(records) == 2 * 2 * 6
    assert {(r["dataset"], r["n"], r["n_id"]) for r in records} == {("photos", 2, 8), ("fashion-mnist", 1, 8)}
    assert ood_degraded.degraded_table(records).count("| baseline to diffaug |") == 2
