"""The 15 corruptions: table, seeds, types, bad input, and formulas against loops by hand and imagecorruptions.

``tests/fidelity`` holds every corruption against the official scripts, ``tests/test_reference.py`` against version 0.1.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as v2F

from diffaug_transforms.robustness import CORRUPTION_SETS, CORRUPTIONS, corrupt
from diffaug_transforms.robustness.corruptions.constants import CONSTANTS

functions = pytest.importorskip("diffaug_transforms.robustness.corruptions.functions", reason="the extra benchmarks")

REFERENCE = Path(__file__).parent.parent / "reference"
GREY = torch.full((4, 3, 64, 64), 128, dtype=torch.uint8)


def test_names_and_table_are_whole():
    assert len(CORRUPTIONS) == 15
    assert CORRUPTION_SETS == ("cifar10-c", "tiny-imagenet-c", "imagenet-c")
    for table in CONSTANTS.values():
        assert tuple(table) == CORRUPTIONS
        assert all(len(entries) == 5 for entries in table.values())
    published = {"gaussian_noise": 0.10, "shot_noise": 50, "impulse_noise": 0.07, "brightness": 0.3, "contrast": 0.15}
    assert {name: CONSTANTS["cifar10-c"][name][4] for name in published} == published
    published = {"gaussian_noise": 0.18, "shot_noise": 15, "impulse_noise": 0.14, "brightness": 0.5, "contrast": 0.05}
    assert {name: CONSTANTS["tiny-imagenet-c"][name][4] for name in published} == published


@pytest.mark.parametrize("corruption_set", CORRUPTION_SETS)
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_every_severity_changes_every_image(samples, corruption, corruption_set):
    for severity in range(1, 6):
        before = samples[:2].clone()
        output = corrupt(samples[:2], corruption, severity, corruption_set=corruption_set, seed=0)
        assert (output.dtype, output.shape) == (torch.uint8, before.shape)
        assert torch.equal(samples[:2], before)
        assert (output != before).flatten(1).any(1).all()


@pytest.mark.parametrize("corruption_set", CORRUPTION_SETS)
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_other_shapes(corruption, corruption_set):
    generator = torch.Generator().manual_seed(0)
    for height, width in ((16, 16), (24, 70)):
        image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
        assert corrupt(image, corruption, corruption_set=corruption_set, seed=1).shape == image.shape


@pytest.mark.parametrize("corruption", sorted(set(CORRUPTIONS) - {"glass_blur", "frost", "elastic_transform"}))
def test_severity_grows_the_change(samples, corruption):
    """The three left out have constants that grow in one place and shrink in another, in the published table too."""
    outputs = [corrupt(samples, corruption, severity, seed=0) for severity in range(1, 6)]
    changes = [(output.float() - samples.float()).abs().mean().item() for output in outputs]
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
    image = v2F.to_pil_image(samples[0])
    output = corrupt(image, "fog", seed=0)
    assert isinstance(output, PIL.Image.Image)
    assert torch.equal(v2F.pil_to_tensor(output), corrupt(samples[0], "fog", seed=0))
    assert type(corrupt(tv_tensors.Image(samples), "fog", seed=0)) is tv_tensors.Image
    assert corrupt(samples.reshape(2, 4, 3, 32, 32), "fog", seed=0).shape == (2, 4, 3, 32, 32)
    assert corrupt(samples[:0], "fog", seed=0).shape == (0, 3, 32, 32)
    assert torch.equal(corrupt(samples, "fog", np.int64(3), seed=np.int64(4)), corrupt(samples, "fog", 3, seed=4))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"corruption": "gausian_noise"}, ValueError, "'gausian_noise'. Did you mean 'gaussian_noise'"),
        ({"severity": 0}, ValueError, "severity must be in 1...5. Got 0"),
        ({"severity": 6}, ValueError, "Got 6"),
        ({"severity": 3.0}, TypeError, "severity must be an integer. Got 3.0"),
        ({"severity": True}, TypeError, "Got True"),
        ({"corruption": None}, ValueError, "Got None"),
        ({"corruption": ["fog"]}, ValueError, "Got ['fog']"),
        (
            {"corruption_set": "cifar100"},
            ValueError,
            "must be one of cifar10-c, tiny-imagenet-c, imagenet-c. Got 'cifar100'",
        ),
        ({"seed": -1}, ValueError, "seed must be at least 0. Got -1"),
        ({"seed": 0.5}, TypeError, "Got 0.5"),
        ({"first": -2}, ValueError, "first must be at least 0. Got -2"),
        ({"image": torch.rand(3, 32, 32)}, TypeError, "Got torch.float32: use v2.functional.to_dtype"),
        ({"image": GREY[:, :1]}, ValueError, "with 3 channels, (..., 3, H, W). Got Tensor of shape (4, 1, 64, 64)"),
        ({"image": GREY[..., :8]}, ValueError, "at least 16 pixels high and wide. Got (64, 8)"),
        ({"image": PIL.Image.new("L", (32, 32))}, ValueError, 'mode RGB. Got L: use image.convert("RGB")'),
        (
            {"image": np.zeros((32, 32, 3), np.uint8)},
            TypeError,
            "(32, 32, 3): use v2.functional.to_image",
        ),
        ({"image": [GREY[0]]}, TypeError, "must be a tensor or a PIL image"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error) as caught:
        corrupt(**{"image": GREY, "corruption": "contrast", **arguments})
    assert message in str(caught.value)


def test_the_old_keyword_warns_once(samples):
    with pytest.warns(DeprecationWarning, match="corruption_set") as caught:
        output = corrupt(samples, "contrast", dataset="imagenet-c")
    assert [warning.filename for warning in caught] == [__file__]
    assert torch.equal(output, corrupt(samples, "contrast", corruption_set="imagenet-c"))


def test_missing_libraries_name_the_extra(monkeypatch):
    from diffaug_transforms.robustness import corruptions

    monkeypatch.delattr(corruptions, "functions")
    monkeypatch.delitem(sys.modules, "diffaug_transforms.robustness.corruptions.functions")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"diffaug-transforms\[benchmarks\]"):
        corrupt(GREY, "contrast")


@pytest.mark.parametrize("corruption_set", ["cifar10-c", "imagenet-c"])
def test_frost_equals_that_of_the_pictures_in_imagecorruptions(samples, corruption_set):
    """``frost.safetensors`` was made when the package read the pictures of imagecorruptions-imaug 1.1.5."""
    expected = load_file(REFERENCE / "frost.safetensors")
    for severity in range(1, 6):
        output = corrupt(samples, "frost", severity, corruption_set=corruption_set, seed=4)
        assert torch.equal(output[..., ::4, ::4], expected[f"{corruption_set}, severity {severity}"])


def test_seeds_of_that_test_draw_all_five_pictures(samples, monkeypatch):
    drawn = []
    picture = functions.frost_picture
    monkeypatch.setattr(functions, "frost_picture", lambda index, *size: drawn.append(index) or picture(index, *size))
    corrupt(samples, "frost", seed=4)
    assert set(drawn) == set(range(5))


def test_a_damaged_picture_of_frost_is_named(monkeypatch, tmp_path):
    (tmp_path / "frost").mkdir()
    for name in functions.FROST_PICTURES:
        (tmp_path / "frost" / name).write_bytes(b"no picture")
    monkeypatch.setattr(functions, "ASSETS", tmp_path)
    functions.frost_picture.cache_clear()
    with pytest.raises(OSError, match="missing or no picture: install diffaug-transforms again"):
        corrupt(GREY, "frost")


def test_glass_blur_equals_its_loop_over_pixels(samples):
    """With shifts of 4 a pixel that was replaced is fetched again: order matters."""
    image, rng = samples[0].permute(1, 2, 0).numpy(), np.random.default_rng(0)
    expected = np.uint8(255 * functions.gaussian_blur(image / 255, 1.5))
    for _ in range(2):
        for row in range(28, 4, -1):
            for column in range(28, 4, -1):
                dx, dy = rng.integers(-4, 4, size=2)
                expected[row, column] = expected[row + dy, column + dx]
    expected = 255 * functions.gaussian_blur(expected / 255, 1.5)
    output = functions.glass_blur(image, np.random.default_rng(0), 1.5, 4, 2)
    np.testing.assert_allclose(output, expected, atol=1e-6)


@pytest.mark.parametrize("angle", [0, 30, -45, -120])
def test_motion_is_imagemagicks_sum_along_a_line(samples, angle):
    image = samples[0].permute(1, 2, 0).numpy()
    output = functions.directional_blur(image, 20, 15, angle)
    weights = np.exp(-(np.arange(41) ** 2) / (2 * 15**2))
    expected = np.zeros(image.shape)
    for i, weight in enumerate(weights / weights.sum()):
        rows = np.arange(32) + int(np.ceil(i * np.sin(np.radians(angle)) - 0.5))
        columns = np.arange(32) + int(np.ceil(i * np.cos(np.radians(angle)) - 0.5))
        expected += weight * image[rows.clip(0, 31)][:, columns.clip(0, 31)]
    # Rounded to 16 bits, then truncated: at most 1 below, and half of a 16-bit step above.
    np.testing.assert_allclose(output, expected - 0.5, atol=0.503)
    assert (output == np.floor(expected + 1e-6)).mean() > 0.99


@pytest.mark.parametrize(
    "corruption",
    ["gaussian_noise", "shot_noise", "defocus_blur", "brightness", "contrast", "pixelate", "jpeg_compression"],
)
def test_imagenet_c_equals_imagecorruptions(samples, corruption):
    """Value for value, at all severities. It draws from NumPy's global state; the others differ from ImageNet-C."""
    expected = load_file(REFERENCE / "imagecorruptions.safetensors")
    image = samples[0].permute(1, 2, 0).numpy()
    for severity, constants in enumerate(CONSTANTS["imagenet-c"][corruption], start=1):
        arguments = constants if isinstance(constants, tuple) else (constants,)
        output = getattr(functions, corruption)(image, np.random.RandomState(severity), *arguments)
        pixels = torch.from_numpy(output.astype(np.uint8)[::4, ::4])
        assert torch.equal(pixels, expected[f"{corruption}, severity {severity}"])
