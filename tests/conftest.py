"""The Gaussian oracle, a tiny U-Net and a tiny classifier: everything is tested with them, without downloads."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.images import sample_images
from diffaug_transforms.score import NoiseSchedule

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores, and so do the scripts they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


class GaussianOracle(nn.Module):
    """The exact noise prediction where images are N(mean, variance) per pixel: E[noise | x_t] in closed form.

    x_t ~ N(a mean, a^2 variance + b^2) with a = signal_scale, b = noise_scale, so
    E[noise | x_t] = b (x_t - a mean) / (a^2 variance + b^2).
    """

    def __init__(self, schedule: NoiseSchedule, mean: float = 0.1, variance: float = 0.04, size: int = 8, channels=3):
        super().__init__()
        self.schedule, self.mean, self.variance = schedule, mean, variance
        self.config = SimpleNamespace(in_channels=channels, sample_size=size)

    def forward(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        a = self.schedule.signal_scale[timesteps].reshape(-1, 1, 1, 1)
        b = self.schedule.noise_scale[timesteps].reshape(-1, 1, 1, 1)
        return b * (x_t - a * self.mean) / (a**2 * self.variance + b**2)

    def posterior_mean(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """E[x_0 | x_t], by the rule for conditioning a Gaussian."""
        a = self.schedule.signal_scale.double()[timesteps].reshape(-1, 1, 1, 1)
        b = self.schedule.noise_scale.double()[timesteps].reshape(-1, 1, 1, 1)
        gain = a * self.variance / (a**2 * self.variance + b**2)
        return self.mean + gain * (x_t.double() - a * self.mean)


def tiny_unet(num_class_embeds: int | None = None, learned_variance: bool = False, seed: int = 0, channels: int = 3):
    """A real UNet2DModel of two levels and 32 channels, with outputs of the size of noise."""
    from diffusers import UNet2DModel

    torch.manual_seed(seed)
    return UNet2DModel(
        sample_size=16,
        in_channels=channels,
        out_channels=channels * (2 if learned_variance else 1),
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=16,
        num_class_embeds=num_class_embeds,
        norm_num_groups=8,  # norms of single channels would take away all that time and labels add
    )


@pytest.fixture
def fresh_compiler() -> None:
    """For tests that compile. torch.compile no longer traces a function that has raised under it in an earlier test.

    A thread of an earlier test that still compiles may disturb the first try.
    """
    try:
        torch.compiler.reset()
    except RuntimeError:
        torch.compiler.reset()


@pytest.fixture(scope="session")
def schedule() -> NoiseSchedule:
    return NoiseSchedule.named("linear", 1000)


@pytest.fixture(scope="session")
def oracle(schedule: NoiseSchedule) -> GaussianOracle:
    return GaussianOracle(schedule)


@pytest.fixture
def network(schedule: NoiseSchedule) -> ScoreNetwork:
    """Unconditional, 16 pixels, strides of 2."""
    return ScoreNetwork(tiny_unet(), schedule).requires_grad_(False).eval()


@pytest.fixture
def conditional(schedule: NoiseSchedule) -> ScoreNetwork:
    """Five classes and no null class."""
    return ScoreNetwork(tiny_unet(num_class_embeds=5), schedule).requires_grad_(False).eval()


@pytest.fixture
def null_conditional(schedule: NoiseSchedule) -> ScoreNetwork:
    """Five classes and a null class."""
    return ScoreNetwork(tiny_unet(num_class_embeds=6), schedule, null_class=5).requires_grad_(False).eval()


@pytest.fixture(scope="session")
def samples() -> Tensor:
    """The package's eight sample images, uint8 (8, 3, 32, 32)."""
    return torch.stack([F.pil_to_tensor(image) for image in sample_images().values()])


@pytest.fixture
def classifier() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 7)).eval()
