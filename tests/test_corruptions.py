"""What holds for all 15 corruptions: their table, seeds, types and bad input."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from diffaug_transforms.robustness import CORRUPTIONS, DATASETS, corrupt
from diffaug_transforms.robustness.corruption_constants import CONSTANTS

pytest.importorskip("diffaug_transforms.robustness.corruption_functions", reason="the extra benchmarks")
if importlib.util.find_spec("imagecorruptions") is None:
    pytest.skip("the extra benchmarks", allow_module_level=True)

GREY = torch.full((4, 3, 64, 64), 128, dtype=torch.uint8)


def change(images: torch.Tensor, corruption: str, severity: int, dataset: str = "cifar10-c") -> float:
    output = corrupt(images, corruption, severity, dataset=dataset, seed=0)
    return (output.float() - images.float()).abs().mean().item()


def test_names_and_table_are_whole():
    assert len(CORRUPTIONS) == 15
    assert DATASETS == ("cifar10-c", "imagenet-c")
    for table in CONSTANTS.values():
        assert tuple(table) == CORRUPTIONS
        assert all(len(entries) == 5 for entries in table.values())


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_every_severity_changes_every_image(samples, corruption, dataset):
    for severity in range(1, 6):
        before = samples[:2].clone()
        output = corrupt(samples[:2], corruption, severity, dataset=dataset, seed=0)
        assert (output.dtype, output.shape) == (torch.uint8, before.shape)
        assert torch.equal(samples[:2], before)
        assert (output != before).flatten(1).any(1).all()


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_other_shapes(corruption, dataset):
    generator = torch.Generator().manual_seed(0)
    for height, width in ((16, 16), (24, 70)):
        image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
        assert corrupt(image, corruption, dataset=dataset, seed=1).shape == image.shape


@pytest.mark.parametrize("corruption", sorted(set(CORRUPTIONS) - {"glass_blur", "frost", "elastic_transform"}))
def test_severity_grows_the_change(samples, corruption):
    """The three left out have constants that grow in one place and shrink in another, in the published table too."""
    changes = [change(samples, corruption, severity) for severity in range(1, 6)]
    assert changes == sorted(changes)
    assert changes[4] > 1.5 * changes[0]


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_an_image_depends_on_seed_and_index_alone(samples, corruption):
    together = corrupt(samples[:4], corruption, seed=3)
    assert torch.equal(corrupt(samples[:4], corruption, seed=3), together)
    assert torch.equal(corrupt(samples[2], corruption, seed=3, first=2), together[2])
    assert torch.equal(corrupt(samples[2:4], corruption, seed=3, first=2), together[2:])
    drawn = corruption not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert torch.equal(corrupt(samples[:4], corruption, seed=4), together) is not drawn
    twins = corrupt(samples[:1].expand(2, -1, -1, -1), corruption, seed=3)
    assert torch.equal(twins[0], twins[1]) is not drawn


def test_seeds_come_from_generators_and_leave_numpy_alone(samples):
    state = np.random.get_state()[1].copy()
    first, second = (corrupt(samples, "snow", seed=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    torch.manual_seed(7)
    assert torch.equal(corrupt(samples, "snow"), first)
    assert not torch.equal(corrupt(samples, "snow"), first)
    assert np.array_equal(np.random.get_state()[1], state)


def test_types_come_back(samples):
    image = F.to_pil_image(samples[0])
    output = corrupt(image, "fog", seed=0)
    assert isinstance(output, PIL.Image.Image)
    assert torch.equal(F.pil_to_tensor(output), corrupt(samples[0], "fog", seed=0))
    assert type(corrupt(tv_tensors.Image(samples), "fog", seed=0)) is tv_tensors.Image
    assert corrupt(samples.reshape(2, 4, 3, 32, 32), "fog", seed=0).shape == (2, 4, 3, 32, 32)
    assert corrupt(samples[:0], "fog", seed=0).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"corruption": "gausian_noise"}, ValueError, "'gausian_noise'. Did you mean 'gaussian_noise'"),
        ({"severity": 0}, ValueError, "severity must be one of 1, 2, 3, 4, 5. Got 0"),
        ({"severity": 6}, ValueError, "Got 6"),
        ({"severity": 2.5}, ValueError, "Got 2.5"),
        ({"dataset": "cifar100"}, ValueError, "dataset must be 'cifar10-c' or 'imagenet-c'. Got 'cifar100'"),
        ({"seed": -1}, ValueError, "seed must be at least 0. Got -1"),
        ({"seed": 0.5}, TypeError, "Got 0.5"),
        ({"first": -2}, ValueError, "first must be at least 0. Got -2"),
        ({"image": torch.rand(3, 32, 32)}, TypeError, "uint8 in 0...255. Got torch.float32"),
        ({"image": GREY[:, :1]}, ValueError, "3 channels. Got 1"),
        ({"image": GREY[..., :8]}, ValueError, "at least 16 pixels high and wide. Got (64, 8)"),
        ({"image": PIL.Image.new("L", (32, 32))}, ValueError, "mode RGB. Got L"),
        ({"image": np.zeros((32, 32, 3), np.uint8)}, TypeError, "Got ndarray"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error) as caught:
        corrupt(**{"image": GREY, "corruption": "contrast", **arguments})
    assert message in str(caught.value)


def test_missing_libraries_name_the_extra(monkeypatch):
    import diffaug_transforms.robustness as package

    monkeypatch.delattr(package, "corruption_functions")
    monkeypatch.delitem(sys.modules, "diffaug_transforms.robustness.corruption_functions")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"diffaug-transforms\[benchmarks\]"):
        corrupt(GREY, "contrast")


def test_missing_frost_names_its_package(monkeypatch):
    from diffaug_transforms.robustness import corruption_helpers

    corruption_helpers.frost_picture.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="imagecorruptions-imaug"):
        corrupt(GREY, "frost")
