"""DDA against its definition: closed-form gradients on the Gaussian oracle, and one answer per image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.robustness import DDA
from diffaug_transforms.robustness.adaptation import low_pass
from tests.conftest import GaussianOracle
from tests.contracts import images


def noise_for(dda: DDA, batch: Tensor, seed: int = 1) -> Tensor:
    return torch.randn(len(dda.timesteps) - 1, *batch.shape, generator=torch.Generator().manual_seed(seed))


def low_pass_matrix(size: int) -> Tensor:
    """phi of one channel as a matrix, float64: each column is what phi makes of one pixel."""
    basis = torch.eye(size * size, dtype=torch.float64).reshape(-1, 1, size, size)
    return low_pass(basis, 4).reshape(size * size, -1).T


def adapt_by_definition(oracle: GaussianOracle, dda: DDA, batch: Tensor, noise: Tensor) -> Tensor:
    """DDA in float64, gradients by hand: pred_x0 = mean + gain (x_t - a mean), clipped.

    The norm's gradient by x_t is -gain [not clipped] phi^T (phi(ref) - phi(pred_x0)) / || ... ||.
    """
    betas = torch.tensor(dda.network.schedule.exact_betas, dtype=torch.float64)
    *walked, start = dda.timesteps
    kept = torch.cumprod(1 - betas, dim=0)
    phi, size = low_pass_matrix(batch.shape[-1]), batch.shape
    reference = batch.double() * 2 - 1
    x = kept[start].sqrt() * reference + (1 - kept[start]).sqrt() * noise[0].double()
    for place in reversed(range(len(walked))):
        abar, before = kept[walked[place]], kept[walked[place - 1]] if place else torch.tensor(1.0).double()
        beta = 1 - abar / before
        gain = abar.sqrt() * oracle.variance / (abar * oracle.variance + 1 - abar)
        raw = oracle.mean + gain * (x - abar.sqrt() * oracle.mean)
        difference = (reference - raw.clamp(-1, 1)).flatten(2) @ phi.T
        norm = difference.flatten(1).norm(dim=1).reshape(-1, 1, 1)
        gradient = -gain * ((raw > -1) & (raw < 1)) * (difference / norm @ phi).reshape(size)
        mean = (before.sqrt() * beta * raw.clamp(-1, 1) + (1 - beta).sqrt() * (1 - before) * x) / (1 - abar)
        deviation = (beta * (1 - before) / (1 - abar)).sqrt()
        z = noise[len(walked) - place].double() if place else torch.zeros_like(x)
        x = mean + deviation * z - 6 * gradient
    return ((x + 1) / 2).clamp(0, 1)


@pytest.mark.parametrize(("mean", "variance"), [(0.1, 0.04), (0.9, 0.3)], ids=["inside", "clipped"])
@pytest.mark.parametrize("start", [101, 505])
def test_dda_is_its_definition_on_the_gaussian_oracle(schedule, mean, variance, start):
    oracle = GaussianOracle(schedule, mean=mean, variance=variance)
    dda = DDA(ScoreNetwork(oracle, schedule), start_timestep=start, dtype=torch.float32)
    batch = images(8)
    noise = noise_for(dda, batch)
    expected = adapt_by_definition(oracle, dda, batch, noise)
    assert torch.allclose(dda.adapt(batch, noise).double(), expected, atol=2e-4)


def test_a_batch_of_eight_gives_each_image_what_a_batch_of_one_gives(network):
    dda, batch = DDA(network, start_timestep=101, dtype=torch.float32), images(16, batch=8)
    noise = noise_for(dda, batch)
    together = dda.adapt(batch, noise)
    alone = torch.cat([dda.adapt(batch[i : i + 1], noise[:, i : i + 1]) for i in range(8)])
    assert torch.allclose(together, alone, atol=1e-4)
    assert not torch.allclose(together[1:], together[:-1], atol=0.01)


def test_start_is_the_references_at_256_pixels_and_matched_below(schedule):
    def walk(size, **options):
        return DDA(ScoreNetwork(GaussianOracle(schedule, size=size), schedule), **options).timesteps

    assert (len(walk(256)), walk(256)[-1]) == (51, 505)
    assert (len(walk(32)), walk(32)[-1]) == (14, 131)
    assert walk(32, start_timestep=505) == walk(256)
    assert walk(32, start_timestep=1) == (0, 10)
    assert walk(256, start_timestep=100, num_steps=1000) == tuple(range(101))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 3, 11, 13)])
def test_shape_dtype_and_range_come_back(network, dtype, shape):
    batch = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    batch = (batch * 255).to(dtype) if dtype == torch.uint8 else batch.to(dtype)
    before = batch.clone()
    with torch.inference_mode():
        adapted = DDA(network, start_timestep=20)(batch)
    assert (adapted.shape, adapted.dtype) == (batch.shape, dtype)
    assert adapted.min() >= 0
    assert adapted.max() <= (255 if dtype == torch.uint8 else 1)
    assert torch.equal(batch, before)
    assert not torch.equal(adapted, batch)


def test_checkpointing_changes_nothing(network):
    options = {"start_timestep": 30, "dtype": torch.float32}
    plain, saving = DDA(network, **options), DDA(network, checkpointing=True, **options)
    noise = noise_for(plain, images(16))
    assert torch.allclose(saving.adapt(images(16), noise), plain.adapt(images(16), noise), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_timestep": 0}, "start_timestep must be at least 1. Got 0"),
        ({"num_steps": 1}, "num_steps must be at least 2. Got 1"),
        ({"downscale": 0}, "downscale must be at least 1. Got 0"),
        ({"downscale": 4.0}, "downscale must be an integer. Got 4.0"),
        ({"border": "reflect"}, "border must be one of normalized, zeros. Got 'reflect'"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be at least 0. Got nan"),
        ({"guidance_scale": "6"}, "guidance_scale must be a number. Got '6'"),
        ({"start_timestep": 5.5}, "start_timestep must be an integer. Got 5.5"),
        ({"num_steps": True}, "num_steps must be an integer. Got True"),
        ({"generator": 42}, "generator must be a torch.Generator or None. Got 42"),
        ({"max_batch": 1.5}, "max_batch must be an integer. Got 1.5"),
        ({"progress": 1}, "progress must be True or False. Got 1"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        DDA(**options)


def test_zeros_beyond_the_border():
    """As if the image stood on grey. Its middle is as with the other border."""
    image = images(32) * 2 - 1
    zeros, padded = low_pass(image, 4, "zeros"), torch.nn.functional.pad(image, [32] * 4)
    assert torch.allclose(zeros[..., 16, 16], low_pass(image, 4)[..., 16, 16], atol=1e-5)
    assert (zeros - low_pass(image, 4)).abs().max() > 0.05
    assert torch.allclose(low_pass(padded, 4, "zeros"), low_pass(padded, 4), atol=1e-6)
    with pytest.raises(ValueError, match="multiples of downscale, 4, if border='zeros'. Got 32x30"):
        low_pass(image[..., :30], 4, "zeros")


def test_a_start_beyond_t(network):
    with pytest.raises(ValueError, match="0...999 for this network. Got 1000"):
        DDA(network, start_timestep=1000)
    with pytest.raises(ValueError, match=r"noise must have the shape \(2, 1, 3, 16, 16\). Got \(1, 3, 16, 16\)"):
        DDA(network, start_timestep=20).adapt(torch.rand(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
