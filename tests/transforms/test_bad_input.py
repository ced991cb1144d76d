"""Each row of the bad-input table: the error's type, and the message as a user reads it."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from diffaug_transforms import DiffAug, DiffAugEnsemble
from diffaug_transforms.score import Denoiser

GOOD = torch.rand(2, 3, 16, 16)
BAD_IMAGES = [
    (torch.rand(2, 1, 16, 16), ValueError, "must have the network's 3 channels. Got 1"),
    (torch.zeros(2, 3, 16, 16, dtype=torch.int64), TypeError, r"must be uint8 in 0\.\.\.255 or .*Got torch.int64"),
    (
        torch.full((2, 3, 16, 16), float("nan")),
        ValueError,
        r"must be finite and in \[0, 1\]. Got values in \[nan, nan\]",
    ),
    (torch.full((2, 3, 16, 16), float("inf")), ValueError, r"Got values in \[inf, inf\]"),
    (GOOD * 255, ValueError, r"must be finite and in \[0, 1\]. Got values in \[.*, 25.*\]"),
    (torch.full((2, 3, 16, 16), -0.5), ValueError, r"Got values in \[-0\.5, -0\.5\]"),
    (torch.rand(16, 16), ValueError, r"images must be \(..., C, H, W\). Got shape \(16, 16\)"),
]
BAD_ARGUMENTS = [
    ({"timesteps": -1}, ValueError, "timesteps must be at least 0. Got -1"),
    ({"timesteps": []}, ValueError, "at least one timestep. Got none"),
    ({"timesteps": [0.5]}, TypeError, "timesteps must be integers. Got 0.5"),
    ({"max_batch": 0}, ValueError, "max_batch must be at least 1. Got 0"),
    ({"dtype": torch.int8}, ValueError, "dtype must be a floating point type. Got torch.int8"),
    ({"network": 7}, TypeError, "network must be a name, a path, a ScoreNetwork or a Denoiser. Got int"),
]
TRANSFORMS = [DiffAug, lambda network="cifar10", **options: DiffAugEnsemble(nn.Flatten(), network, **options)]


@pytest.mark.parametrize("make", TRANSFORMS, ids=["DiffAug", "DiffAugEnsemble"])
@pytest.mark.parametrize(("images", "error", "message"), BAD_IMAGES)
def test_images(network, make, images, error, message):
    with pytest.raises(error, match=message):
        make(network)(images)


@pytest.mark.parametrize("make", TRANSFORMS, ids=["DiffAug", "DiffAugEnsemble"])
@pytest.mark.parametrize(("arguments", "error", "message"), BAD_ARGUMENTS)
def test_constructor(make, arguments, error, message):
    with pytest.raises(error, match=message):
        make(**arguments)


@pytest.mark.parametrize("p", [1.5, -0.1, float("nan")])
def test_p(p):
    with pytest.raises(ValueError, match=rf"p must be in \[0, 1\]. Got {p}"):
        DiffAug(p=p)


@pytest.mark.parametrize("make", TRANSFORMS, ids=["DiffAug", "DiffAugEnsemble"])
def test_timesteps_beyond_t(network, make):
    message = r"timesteps must be in 0\.\.\.999 for this network. Got 1000"
    with pytest.raises(ValueError, match=message):
        make(network, timesteps=1000)
    by_name = make("cifar10", timesteps=1000)
    with pytest.raises(ValueError, match=message):
        by_name(torch.rand(1, 3, 32, 32))


def test_an_unknown_network_is_named_at_the_first_image():
    with pytest.raises(ValueError, match="Got 'cifar11'. Did you mean 'cifar10'"):
        DiffAug("cifar11")(GOOD)


def test_labels(conditional):
    transform = DiffAug(conditional)
    with pytest.raises(ValueError, match="needs labels in 0...4: it has no null class"):
        transform(GOOD)
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.\.4. Got 9"):
        transform(GOOD, torch.tensor([1, 9]))
    with pytest.raises(ValueError, match="labels must be one per image. Got 3 for 2 images"):
        transform(GOOD, torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match="labels must be integer classes.*put DiffAug before MixUp and CutMix"):
        transform(GOOD, torch.rand(2, 5))


class OnCuda(nn.Module):
    """Stands for a network that was moved to CUDA, on machines without one."""

    device = torch.device("cuda")


def test_cuda_in_a_forked_worker(network):
    denoiser = Denoiser(network)
    denoiser._loaded = {"network": OnCuda()}
    child = os.fork()
    if child == 0:
        try:
            denoiser.ready("cpu")
        except RuntimeError as error:
            os._exit(17 if "after the DataLoader" in str(error) and "MixUp" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17


def test_cuda_images_in_a_forked_worker(network, monkeypatch):
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(RuntimeError, match="a CUDA network cannot run in a forked DataLoader worker"):
        Denoiser(network).ready("cuda")
