"""Out-of-distribution scores and their metrics beside OpenOOD."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diffaug_transforms.robustness import OODDetector, auroc, fpr95

from .toys import seeded

SOURCE = "Jingkang50/OpenOOD"
FILE = Path(__file__).parent.parent / "reference" / "openood.safetensors"
TOLERANCE = 1e-5
FORMULAS = {
    "msp": "1 - max softmax, up to the sign",
    "react": "features clipped at the 90th percentile, then logsumexp (Sun et al. 2021)",
    "ash-b": "the top 10 % of features, all set to s1 / k (Djurisic et al. 2023)",
    "ash-p": "the top 10 % of features kept",
    "ash-s": "the top 10 % of features times exp(s1 / s2)",
    "scale": "all features times exp(s1 / s2), 85th percentile (Xu et al. 2024)",
    "AUROC and FPR95": "AUROC and FPR95 of the six scores",
}
SIDE, FEATURES, CLASSES = 8, 40, 5
PERCENTILES = {"react": 90, "ash-b": 90, "ash-p": 90, "ash-s": 90, "scale": 85}


def classifier() -> nn.Sequential:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, FEATURES), nn.ReLU(), nn.Linear(FEATURES, CLASSES))
    for seed, parameter in enumerate(model.parameters()):
        parameter.data = seeded(*parameter.shape, seed=seed) / parameter.shape[-1] ** 0.5
    return model.eval().requires_grad_(False)


def images() -> tuple[Tensor, Tensor]:
    """In and out of distribution, in [0, 1]."""
    return seeded(60, 3, SIDE, SIDE, seed=8).sigmoid(), (2 * seeded(50, 3, SIDE, SIDE, seed=9)).sigmoid()


def comparisons() -> Iterator[tuple[str, Tensor, Tensor]]:
    """(case, ours, the source's). OpenOOD's scores are confidences."""
    expected = load_file(FILE)
    for method in ("msp", *PERCENTILES):
        detector = OODDetector(classifier(), method=method).fit(images()[0])
        known, unknown = (detector(part) for part in images())
        yield method, torch.cat([known, unknown]), -expected[method]
        found = torch.tensor([auroc(known, unknown), fpr95(known, unknown)], dtype=torch.float64)
        yield f"AUROC and FPR95, {method}", found, expected[f"metrics of {method}"]
