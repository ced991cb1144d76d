"""A variance-exploding schedule, and the Gaussian oracle as a network of Song et al. 2021 would be called."""

from __future__ import annotations

import torch
from diffusers import ScoreSdeVeScheduler
from torch import Tensor

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.score import NoiseSchedule

from .conftest import GaussianOracle

#: Song et al.'s on CIFAR-10, on the scale of [-1, 1] images: sigma .01 to 50 on [0, 1].
EXPLODING = NoiseSchedule.variance_exploding(0.02, 100, 1000)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class ScoreOracle(GaussianOracle):
    """The Gaussian oracle as diffusers calls NCSN++: of [0, 1] images plus noise, told sigma, the score.

    Images in [0, 1] are N(m, v), m = (mean + 1) / 2 and v = variance / 4, so the score is (m - x) / (v + sigma^2).
    """

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        return ((self.mean + 1) / 2 - x) / (self.variance / 4 + sigma.reshape(-1, 1, 1, 1) ** 2)


def score_network(**options) -> ScoreNetwork:
    scheduler = ScoreSdeVeScheduler(1000, sigma_min=0.01, sigma_max=50)
    oracle = ScoreOracle(EXPLODING, **options)
    oracle.config.out_channels = 3
    return ScoreNetwork.from_diffusers(oracle, scheduler)
