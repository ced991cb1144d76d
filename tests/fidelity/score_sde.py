"""Sampling with a variance-exploding schedule beside yang-song/score_sde_pytorch, which does not clip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.score import NoiseSchedule
from diffaug_transforms.score.sampling import sample

from .toys import BATCH, SIDE, ToyUNet, seeded

SOURCE = "yang-song/score_sde_pytorch"
FILE = Path(__file__).parent.parent / "reference" / "score_sde.safetensors"
#: Nothing is clipped, so values are up to 8.
TOLERANCE = 1e-4
FORMULAS = {
    "sigmas": "sigma_min (sigma_max / sigma_min)^(t / (T - 1))",
    "ancestral": "samples of 30 ancestral steps with a variance-exploding schedule, not clipped",
}
SIGMAS = (0.01, 3.0)
STEPS = 30
SEED = 5


def start() -> Tensor:
    return SIGMAS[1] * seeded(BATCH, 3, SIDE, SIDE, seed=1)


def comparisons() -> Iterator[tuple[str, Tensor, Tensor]]:
    """(case, ours, the source's)."""
    expected = load_file(FILE)
    schedule = NoiseSchedule.variance_exploding(*SIGMAS, STEPS)
    yield "sigmas", schedule.sigmas, expected["sigmas"]
    torch.manual_seed(SEED)
    noise = [torch.randn(BATCH, 3, SIDE, SIDE) for _ in range(STEPS)]
    yield (
        "ancestral",
        sample(ScoreNetwork(ToyUNet(False), schedule), start(), noise=noise, clip=False),
        expected["sample"],
    )
