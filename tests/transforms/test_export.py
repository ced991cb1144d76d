"""Compiled and exported: whole graphs of networks that are not loaded yet, PyTorch's modes, a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses import FakeTensorMode
from torchvision.transforms import v2

from diffaug_transforms import DiffAug, DiffAugEnsemble
from diffaug_transforms.robustness import DenoisedSmoothing
from diffaug_transforms.score import Denoiser
from tests import contracts

pytestmark = pytest.mark.usefixtures("fresh_compiler")

SIZE = 16
#: Of batches: from 1 to 70, and around all that kernels and layers distinguish.
SIZES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 70)
IMAGES, NOISE = contracts.images(SIZE, batch=2), contracts.draw(2, 2, 3, SIZE, SIZE)


@pytest.fixture
def folder(network, tmp_path) -> Path:
    """A network to be loaded by its path."""
    network.save_pretrained(tmp_path / "network")
    return tmp_path / "network"


@pytest.fixture
def make(classifier, folder):
    """Ensembles that have loaded nothing yet."""
    return lambda **options: DiffAugEnsemble(classifier, folder, timesteps=[0, 30, 200], dtype=torch.float32, **options)


class Model(nn.Module):
    """An ensemble inside of another module."""

    def __init__(self, ensemble: DiffAugEnsemble) -> None:
        super().__init__()
        self.resize, self.ensemble = v2.Resize(SIZE), ensemble

    def forward(self, images, noise):
        return self.ensemble(self.resize(images), noise)


@pytest.mark.parametrize(("wrap", "noise"), [(Model, NOISE), (nn.Sequential, None)])
def test_a_cold_ensemble_compiles_whole(make, wrap, noise):
    inputs = (IMAGES,) if noise is None else (IMAGES, noise)
    expected = contracts.seeded(make(), *inputs)
    compiled = torch.compile(wrap(make()), fullgraph=True, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(contracts.seeded(compiled, *inputs), expected, rtol=0, atol=1e-5)


def test_a_cold_transform_compiles(folder):
    transform = torch.compile(DiffAug(folder, dtype=torch.float32), backend="eager")
    for images in (IMAGES, IMAGES, contracts.images(SIZE, batch=3)):
        views = transform(images)
        assert views.shape == images.shape
        assert not torch.equal(views, images)


@pytest.fixture
def cores(classifier, folder, make):
    """The calls that compile whole, each a function of (images, noise): a new object of its own that has loaded."""

    def diffaug(images, noise):
        params = {"timesteps": torch.full((len(images),), 200), "noise": noise}
        return augment.transform(images, params)

    augment = DiffAug(folder, dtype=torch.float32)
    ensemble, smoothed = make(), DenoisedSmoothing(classifier, folder, dtype=torch.float32)
    for user in (augment, ensemble, smoothed):
        user.denoiser.load()
    return {
        "DiffAug": diffaug,
        "DiffAugEnsemble": lambda images, noise: ensemble(images, torch.stack([noise, noise])),
        "DenoisedSmoothing": smoothed.classify,
    }


@pytest.mark.parametrize("name", ["DiffAug", "DiffAugEnsemble", "DenoisedSmoothing"])
def test_a_core_compiles_whole_and_seldom_again(cores, name):
    """For batches of 1 to 70 images it is compiled three times at most: for one image, and for fewer and more than 16,
    for which PyTorch's convolutions on CPUs differ."""
    counter = CompileCounter()
    compiled = torch.compile(cores[name], fullgraph=True, backend=counter)
    for batch in SIZES:
        images, noise = contracts.images(SIZE, batch=batch), contracts.draw(batch, 3, SIZE, SIZE)
        answer = compiled(images, noise)
        if batch < 4 or batch == 70:
            torch.testing.assert_close(answer, cores[name](images, noise), rtol=0, atol=1e-5)
    assert counter.frame_count <= 3


def test_compile_option_compiles_seldom_again(folder, monkeypatch):
    """Also if p < 1, for which a few of the other images fill the batch up."""
    counter, compile_module = CompileCounter(), nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module, mode: compile_module(module, backend=counter))
    augment = DiffAug(folder, dtype=torch.float32, compile=True, p=0.5)
    sizes = []
    augment.denoiser.ready("cpu").unet.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    for batch in SIZES:
        images = contracts.images(SIZE, batch=batch)
        views = contracts.seeded(augment, images)
        changed = (views != images).flatten(1).any(1)
        assert 0.1 < changed.float().mean() < 0.9 or batch < 16
    assert counter.frame_count <= 3
    assert sizes
    assert all(size % 8 == 0 or size in SIZES for size in sizes)


@pytest.mark.parametrize("mode", [True, "reduce-overhead"])
def test_compile_option_takes_a_mode(network, monkeypatch, mode):
    modes = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, mode: modes.append(mode))
    Denoiser(network, compile=mode).ready("cpu")
    assert modes == [None if mode is True else mode]


def test_compile_option_inside_of_a_compiled_model(make):
    compiled = torch.compile(Model(make(compile=True)), backend="eager")
    torch.testing.assert_close(compiled(IMAGES, NOISE), make()(IMAGES, NOISE), rtol=0, atol=1e-5)


def test_errors_of_loading_keep_their_names(classifier, folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    for network, error in (("cifar11", ValueError), (folder, OSError)):
        ensemble = DiffAugEnsemble(classifier, network)
        with pytest.raises(error) as eager:
            ensemble(IMAGES)
        for call in (
            torch.compile(DiffAug(network), backend="eager"),
            torch.compile(nn.Sequential(ensemble), backend="eager"),
            torch.compile(ensemble, backend="eager", fullgraph=True),
            lambda images, module=ensemble: torch.export.export(module, (images, NOISE)),
        ):
            with pytest.raises(error) as compiled:
                call(IMAGES)
            assert str(compiled.value) == str(eager.value)


@pytest.mark.parametrize(
    "mode",
    [lambda: torch.device("meta"), torch.inference_mode, FakeTensorMode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["meta", "inference", "fake", "autocast"],
)
def test_weights_that_are_loaded_under_a_mode_are_right(folder, network, mode):
    denoiser, t = Denoiser(folder, differentiable=True, dtype=torch.float32), torch.tensor([30, 200])
    with mode():
        denoiser.ready(torch.device("cpu"))
    images = IMAGES.clone().requires_grad_()
    views = denoiser(images, t, NOISE[0])
    views.sum().backward()
    assert images.grad.any()
    assert torch.equal(views, Denoiser(network, differentiable=True, dtype=torch.float32)(images, t, NOISE[0]))


def test_a_cold_ensemble_exports_and_runs_without_the_package(make, tmp_path):
    batch = torch.export.Dim("batch", max=16)
    program = torch.export.export(make(), (IMAGES, NOISE), dynamic_shapes={"images": {0: batch}, "noise": {1: batch}})
    torch.export.save(program, tmp_path / "ensemble.pt2")
    images, noise = contracts.images(SIZE, batch=5), contracts.draw(2, 5, 3, SIZE, SIZE)
    expected = make()(images, noise)
    torch.save((images, noise, expected), tmp_path / "expected.pt")
    script = """
import sys, torch
images, noise, expected = torch.load("expected.pt")
answer = torch.export.load("ensemble.pt2").module()(images, noise)
torch.testing.assert_close(answer, expected, rtol=0, atol=1e-5)
assert not {"diffaug_transforms", "diffusers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, check=True)
