"""Checkpoints of score_sde's DDPM++: files and their faults. Its own numbers are in ``tests/fidelity/ddpmpp.py``."""

from __future__ import annotations

import pickle

import pytest
import torch

from diffaug_transforms import DiffAug, load_score_network
from diffaug_transforms.score.score_sde import read_score_sde, sde_schedule, unet_config
from diffaug_transforms.score.unet import build_unet
from tests import contracts
from tests.contracts import draw
from tests.fidelity.ddpmpp import checkpoint


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("score_sde"))


def test_the_schedule_is_the_sdes_at_the_times_that_the_network_is_told():
    schedule = sde_schedule()
    time = torch.tensor([1, 500, 1000], dtype=torch.float64) / 1000
    log_mean = -(time**2) * (20 - 0.1) / 4 - 0.1 * time / 2  # Song et al. 2021, eq. 33
    torch.testing.assert_close(schedule.signal_scale[[0, 499, 999]].double(), log_mean.exp(), rtol=1e-6, atol=0)


def test_a_folder_holds_it_too(path, tmp_path):
    network = load_score_network(path)
    assert (network.image_size, network.num_timesteps, network.num_classes, network.stride) == (32, 1000, None, 8)
    assert not any(weight.requires_grad for weight in network.parameters())
    network.save_pretrained(tmp_path)
    again = load_score_network(tmp_path)
    x_t, t = draw(2, 3, 32, 32), torch.tensor([3, 700])
    assert again.schedule == network.schedule
    assert torch.equal(again.eps(x_t, t), network.eps(x_t, t))
    assert torch.equal(pickle.loads(pickle.dumps(again)).eps(x_t, t), network.eps(x_t, t))
    assert DiffAug(str(path))(contracts.images(32)).shape == (4, 3, 32, 32)


def test_diffpures_network_has_its_size():
    """cifar10_ddpmpp_deep_continuous: 107 M parameters (Nie et al. 2022)."""
    unet = build_unet(unet_config(128, 3, 8), "checkpoint_8.pth")
    assert 106e6 < sum(weight.numel() for weight in unet.parameters()) < 108e6


def test_a_pth_file_of_another_kind_is_read_as_openais(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    assert read_score_sde(tmp_path / "other.pth") is None
    with pytest.raises(ValueError, match="openai_flags"):
        load_score_network(tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ema": {"shadow_params": []}},
            "checkpoint_8.pth is no checkpoint of score_sde: its averaged weights do not fit",
        ),
        ({"ema": {}}, "checkpoint_8.pth is no checkpoint of score_sde: 'shadow_params'"),
        ({"model": {}, "ema": {"shadow_params": []}}, "checkpoint_8.pth is no DDPM\\+\\+ network of score_sde"),
    ],
)
def test_damaged_checkpoints(tmp_path, changes, message):
    with pytest.raises(OSError, match=message):
        load_score_network(checkpoint(tmp_path, **changes))


def test_weights_of_another_network(path, tmp_path):
    whole = torch.load(path, weights_only=True)
    names = [name for name in whole["model"] if name != "module.sigmas"]
    averages = dict(zip(names, whole["ema"]["shadow_params"]))
    for change, message in (
        ({"module.all_modules.4.NIN_0.W": torch.zeros(64, 64)}, "is no DDPM|do not fit a DDPM"),
        ({names[-1]: torch.full((3,), torch.nan)}, "NaN or infinite"),
        ({"module.all_modules.40.weight": torch.zeros(3)}, "it has 41 modules, which no number of blocks gives"),
    ):
        changed = {**averages, **change}
        broken = checkpoint(tmp_path, model=changed, ema={"shadow_params": list(changed.values())})
        with pytest.raises(OSError, match=message):
            load_score_network(broken)
