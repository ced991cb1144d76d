"""Networks without a size of their own: timesteps follow the images, and nothing warns of their size."""

from __future__ import annotations

import pickle
import warnings

import pytest
import torch
from torch import nn

from diffaug_transforms import DiffAug, DiffAugEnsemble, ScoreNetwork, load_score_network
from diffaug_transforms.robustness import DDA
from diffaug_transforms.score import Denoiser, match_timesteps
from diffaug_transforms.transforms import AnytimeEnsemble
from tests import contracts
from tests.conftest import GaussianOracle, tiny_unet

PAPER = tuple(range(0, 451, 50))
AT_32 = (0, 3, 9, 16, 23, 33, 44, 57, 74, 96)


@pytest.fixture
def any_size(schedule) -> ScoreNetwork:
    """Exact at every size, strides of 1."""
    return ScoreNetwork(GaussianOracle(schedule, size=None), schedule)


@pytest.fixture
def pooled() -> nn.Module:
    """A classifier of 7 classes for images of any size."""
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 7)).eval()


def test_the_defaults_are_matched_to_the_images_and_the_papers_from_224_pixels_on(any_size, schedule):
    assert any_size.image_size is None
    assert any_size.augment_timesteps == tuple(range(1000))
    denoiser = Denoiser(any_size)
    assert denoiser.ensemble_timesteps == any_size.ensemble_timesteps == PAPER
    for shape, expected in [
        ((1, 3, 32, 32), AT_32),
        ((3, 480, 32), AT_32),  # the shorter side counts
        ((1, 3, 100, 120), match_timesteps(PAPER, schedule, 100)),
        ((1, 3, 223, 300), match_timesteps(PAPER, schedule, 223)),
        ((1, 3, 224, 224), PAPER),
        ((1, 3, 768, 1024), PAPER),
    ]:
        assert denoiser.default_timesteps("ensemble", shape) == expected
    assert denoiser.default_timesteps("augment", (32, 32)) == match_timesteps(range(1000), schedule, 32)
    assert denoiser.default_timesteps("augment", (256, 224)) == tuple(range(1000))
    assert match_timesteps(PAPER, schedule, None) == PAPER


def test_a_network_with_a_size_keeps_its_timesteps_for_every_image(network, schedule):
    own = match_timesteps(PAPER, schedule, 16)
    assert {Denoiser(network).default_timesteps("ensemble", (side, side)) for side in (8, 16, 224, 512)} == {own}


def test_diffaug_draws_for_the_size_it_gets(any_size):
    """The largest of 4,000 draws: 766 of 0...999 at 32 pixels and matched between at 64, 999 from 224 on."""
    augment, narrow = DiffAug(any_size), torch.zeros(1, 3, 1, 1)
    for side in (32, 64, 224):
        draws = augment.make_params([narrow.expand(300 if side > 64 else 4000, 3, side, side)])["timesteps"]
        default = augment.denoiser.default_timesteps("augment", (side, side))
        assert set(draws.tolist()) <= set(default)
        assert draws.max() > 0.9 * default[-1]


def test_diffaug_takes_a_list_of_images_of_several_sizes_without_a_warning(any_size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = [torch.rand(3, 32, 32), torch.rand(3, 50, 70), torch.rand(3, 300, 240)]
        assert [view.shape for view in DiffAug(any_size)(images)] == [image.shape for image in images]


@pytest.mark.parametrize("side", [32, 224])
def test_the_ensembles_set_follows_the_images(any_size, pooled, side):
    ensemble = DiffAugEnsemble(pooled, any_size, dtype=torch.float32)
    expected = AT_32 if side == 32 else PAPER
    images = contracts.images(side, batch=2)
    assert ensemble.view_timesteps == PAPER
    assert ensemble.view_timesteps_for(images.shape) == expected
    noise = contracts.draw(9, *images.shape)
    given = DiffAugEnsemble(pooled, any_size, timesteps=expected, dtype=torch.float32)
    assert torch.equal(ensemble(images, noise), given(images, noise))
    anytime = AnytimeEnsemble(ensemble).predict(images, noise)
    assert torch.equal(anytime.log_probabilities.argmax(1), given(images, noise).argmax(1))


@pytest.mark.usefixtures("fresh_compiler")
def test_the_ensemble_compiles_and_exports_for_each_size(any_size, pooled):
    ensemble = DiffAugEnsemble(pooled, any_size, dtype=torch.float32)
    compiled = torch.compile(ensemble, fullgraph=True, backend="eager")
    for side in (32, 48, 224):
        images = contracts.images(side, batch=2)
        noise = contracts.draw(9, *images.shape)
        expected = DiffAugEnsemble(pooled, any_size, dtype=torch.float32)(images, noise)
        torch.testing.assert_close(compiled(images, noise), expected)
        exported = torch.export.export(ensemble, (images, noise))
        torch.testing.assert_close(exported.module()(images, noise), expected)


def test_ddas_start_follows_the_images(any_size):
    adapt = DDA(any_size, num_steps=100)
    assert adapt.timesteps[-1] == adapt.timesteps_for((1, 3, 224, 300))[-1] == 505
    assert adapt.timesteps_for((1, 3, 32, 32))[-1] == 131
    assert DDA(any_size, num_steps=10)(contracts.images(20, batch=2)).shape == (2, 3, 20, 20)


def test_it_says_so_and_pickles(any_size):
    denoiser = Denoiser(any_size)
    denoiser.default_timesteps("ensemble", (32, 32))
    assert "<ScoreNetwork of any size>" in repr(denoiser)
    assert pickle.loads(pickle.dumps(denoiser)).default_timesteps("ensemble", (32, 32)) == AT_32


def test_a_folder_says_it_with_a_null(schedule, tmp_path):
    unet = tiny_unet()
    unet.register_to_config(sample_size=None)
    network = ScoreNetwork(unet, schedule).requires_grad_(False).eval()
    network.save_pretrained(tmp_path)
    again = load_score_network(tmp_path)
    assert again.image_size is None
    x_t, t = contracts.draw(1, 3, 24, 40), torch.tensor([300])
    assert torch.equal(again.eps(x_t, t), network.eps(x_t, t))
    assert DiffAug(str(tmp_path))(torch.rand(1, 3, 25, 41)).shape == (1, 3, 25, 41)
