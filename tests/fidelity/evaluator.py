"""Inception Score, precision, recall and the Fréchet distance beside OpenAI's evaluator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from .toys import seeded

SOURCE = "openai/guided-diffusion, evaluations"
FILE = Path(__file__).parent.parent / "reference" / "evaluator.safetensors"
TOLERANCE = 1e-5
FORMULAS = {
    "Inception Score": "exp(mean KL(p(y \\| x) ‖ mean p)) over splits of 5,000 images",
    "precision": "share of generated features inside the real ones' balls, k = 3",
    "recall": "share of real features inside the generated ones' balls, k = 3",
    "FID": "‖μ₁ - μ₂‖² + tr(Σ₁ + Σ₂ - 2 √(Σ₁Σ₂))",
}
NEEDS = ("torchmetrics", "prdc")


def features() -> tuple[Tensor, Tensor]:
    """Of 300 real and 260 generated images."""
    return seeded(300, 6, seed=1), 0.7 * seeded(260, 6, seed=2) + 0.3


def probabilities(number: int) -> Tensor:
    return (3 * seeded(number, 10, seed=number)).double().softmax(1)


#: The last is no multiple of 5000.
NUMBERS = (400, 5000, 12_345)


def comparisons() -> Iterator[tuple[str, Tensor, Tensor]]:
    """(case, ours, the source's)."""
    from benchmarks.guidance.features import frechet_distance, inception_score, manifold_metrics

    expected = load_file(FILE)
    for number in NUMBERS:
        case = f"Inception Score, {number} images"
        yield case, torch.tensor(inception_score(probabilities(number)), dtype=torch.float64), expected[case]
    found = manifold_metrics(*features())
    for case in ("precision", "recall"):
        yield case, torch.tensor(found[case], dtype=torch.float64), expected[case]
    yield "FID", torch.tensor(frechet_distance(*features()), dtype=torch.float64), expected["FID"]
