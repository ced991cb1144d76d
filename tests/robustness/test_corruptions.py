"""The 15 corruptions: table, seeds, types, bad input; each formula against statistics and references by hand."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as v2F

from diffaug_transforms.robustness import CORRUPTION_SETS, CORRUPTIONS, corrupt
from diffaug_transforms.robustness.corruptions.constants import CONSTANTS

functions = pytest.importorskip("diffaug_transforms.robustness.corruptions.functions", reason="the extra benchmarks")
if importlib.util.find_spec("imagecorruptions") is None:
    pytest.skip("the extra benchmarks", allow_module_level=True)

GREY = torch.full((4, 3, 64, 64), 128, dtype=torch.uint8)


def test_names_and_table_are_whole():
    assert len(CORRUPTIONS) == 15
    assert CORRUPTION_SETS == ("cifar10-c", "imagenet-c")
    for table in CONSTANTS.values():
        assert tuple(table) == CORRUPTIONS
        assert all(len(entries) == 5 for entries in table.values())


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


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"corruption": "gausian_noise"}, ValueError, "'gausian_noise'. Did you mean 'gaussian_noise'"),
        ({"severity": 0}, ValueError, "severity must be one of 1, 2, 3, 4, 5. Got 0"),
        ({"severity": 6}, ValueError, "Got 6"),
        ({"severity": 2.5}, ValueError, "Got 2.5"),
        (
            {"corruption_set": "cifar100"},
            ValueError,
            "corruption_set must be 'cifar10-c' or 'imagenet-c'. Got 'cifar100'",
        ),
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


def test_missing_frost_names_its_package(monkeypatch):
    functions.frost_picture.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="imagecorruptions-imaug"):
        corrupt(GREY, "frost")


@pytest.mark.parametrize(("corruption_set", "sigma"), [("cifar10-c", 0.10), ("imagenet-c", 0.38)])
def test_gaussian_noise_has_the_published_deviation(corruption_set, sigma):
    noise = corrupt(GREY, "gaussian_noise", corruption_set=corruption_set, seed=0).double() / 255 - 128 / 255
    # Values beyond [0, 1] are clipped, which shrinks the deviation at 0.38.
    drawn = torch.randn(10**6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (128 / 255 + sigma * drawn).clamp(0, 1)
    assert noise.std().item() == pytest.approx(expected.std().item(), rel=0.02)
    assert noise.mean().item() == pytest.approx(-0.5 / 255, abs=0.006)


def test_shot_noise_is_poisson():
    """50 photons at brightness 1: variance 1/2 / 50 at brightness 1/2, in steps of 1/50."""
    output = corrupt(GREY, "shot_noise", seed=0)
    assert (output.double() / 255).std().item() == pytest.approx((128 / 255 / 50) ** 0.5, rel=0.02)
    assert set(output.unique().tolist()) <= {int(255 * (n / 50)) for n in range(51)}


def test_impulse_noise_replaces_its_share_with_black_and_white():
    output = corrupt(GREY, "impulse_noise", seed=0)
    assert set(output.unique().tolist()) == {0, 128, 255}
    for value in (0, 255):
        assert (output == value).double().mean().item() == pytest.approx(0.035, abs=0.004)


def test_contrast_and_brightness_by_formula(samples):
    unit = samples.double() / 255
    mean = unit.mean((2, 3), keepdim=True)
    assert (corrupt(samples, "contrast", 5) - 255 * (0.15 * (unit - mean) + mean)).abs().max() < 1.001
    # Adding to HSV's value with hue and saturation kept scales the three channels by one factor.
    value = unit.amax(1, keepdim=True)
    brighter = unit * (value + 0.3).clamp(max=1) / value.clamp(min=1 / 255) + 0.3 * (value == 0)
    assert (corrupt(samples, "brightness", 5) - 255 * brighter).abs().max() < 1.001


def test_defocus_is_the_mean_over_a_disk(samples):
    """ImageNet-C's severity 1: the 29 pixels within radius 3, whose edge's smoothing of 0.1 pixels is none."""
    offsets = torch.cartesian_prod(torch.arange(-3, 4), torch.arange(-3, 4))
    offsets = offsets[offsets.square().sum(1) <= 9]
    assert len(offsets) == 29
    padded = F.pad(samples.double(), (3, 3, 3, 3), mode="reflect")
    mean = sum(padded[..., 3 + y : 35 + y, 3 + x : 35 + x] for y, x in offsets) / 29
    assert (corrupt(samples, "defocus_blur", 1, corruption_set="imagenet-c") - mean).abs().max() < 1.001


def test_glass_blur_fetches_from_the_pixels_above_and_left():
    """Every value says its own place, so with next to no blur (severity 1) one can see where it came from."""
    image = torch.stack([torch.arange(32).repeat(32, 1), torch.arange(32).repeat(32, 1).T, torch.zeros(32, 32)])
    output = corrupt(image.to(torch.uint8), "glass_blur", 1, seed=0)
    # The blur's two roundings down may each take one off.
    shift = (image - output)[:2, 2:, 2:]
    assert ((shift >= 0) & (shift <= 3)).all()
    assert shift.double().std() > 0.4


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
    np.testing.assert_allclose(output, expected, atol=0.5001)


@pytest.mark.parametrize("corruption", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform"])
def test_blurs_and_warps_leave_a_plain_image(corruption):
    for corruption_set in CORRUPTION_SETS:
        assert (corrupt(GREY[:1], corruption, corruption_set=corruption_set, seed=0).int() - 128).abs().max() <= 1


def test_zoom_keeps_the_middle_and_enlarges_it():
    image = np.zeros((32, 32))
    image[14:18, 14:18] = 1
    large = functions.clipped_zoom(image, 2)
    assert large.shape == (32, 32)
    assert large.sum() == pytest.approx(4 * image.sum(), rel=0.2)
    assert np.argwhere(large > 0.5).mean(0) == pytest.approx([15.5, 15.5], abs=0.6)
    assert functions.clipped_zoom(np.zeros((20, 33, 3)), 1.07).shape == (20, 33, 3)


def test_frost_is_a_weighted_sum_and_snow_and_fog_are_bright():
    black, white = torch.zeros_like(GREY), torch.full_like(GREY, 255)
    assert 0 < corrupt(black, "frost", seed=0).max() <= 0.45 * 255
    assert corrupt(white, "frost", seed=0).min() >= int(0.75 * 255)
    assert corrupt(black, "snow", seed=0).float().mean() > 20
    assert corrupt(black, "fog", seed=0).max() == 0  # the published formula scales fog by the image's brightest value
    heights = functions.plasma_fractal(32, 1.75, np.random.default_rng(0))
    assert (heights.shape, heights.min(), heights.max()) == ((32, 32), 0, 1)


def test_plasma_of_side_two_by_hand():
    """The centre is drawn around the mean of four corners at 0, an edge around that of two corners and two centres."""
    draws = np.random.default_rng(0)
    centre, across, down = (draws.uniform(-(100**2), 100**2) for _ in range(3))
    expected = np.array([[0, centre / 2 + across], [centre / 2 + down, centre]])
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(functions.plasma_fractal(2, 3, np.random.default_rng(0)), expected)


def test_fog_is_rougher_where_heights_decay_less():
    def roughness(decay: float) -> float:
        maps = [functions.plasma_fractal(64, decay, np.random.default_rng(seed)) for seed in range(8)]
        return float(np.mean([np.abs(np.diff(heights)).mean() / heights.std() for heights in maps]))

    assert roughness(1.4) > 1.5 * roughness(3)


def test_pixelate_at_one_half_is_the_mean_of_blocks(samples):
    """Of 2x2 pixels, rounded once per axis."""
    blocks = F.avg_pool2d(samples.double(), 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert (corrupt(samples, "pixelate", 2, corruption_set="imagenet-c") - blocks).abs().max() <= 1


@pytest.mark.parametrize(
    "corruption",
    ["gaussian_noise", "shot_noise", "defocus_blur", "brightness", "contrast", "pixelate", "jpeg_compression"],
)
def test_imagenet_c_equals_imagecorruptions(samples, corruption):
    """Value for value, at all severities. It draws from NumPy's global state; the others differ from ImageNet-C."""
    library = pytest.importorskip("imagecorruptions")
    image = samples[0].permute(1, 2, 0).numpy()
    state = np.random.get_state()
    for severity, constants in enumerate(CONSTANTS["imagenet-c"][corruption], start=1):
        arguments = constants if isinstance(constants, tuple) else (constants,)
        output = getattr(functions, corruption)(image, np.random.RandomState(severity), *arguments)
        np.random.seed(severity)
        expected = library.corrupt(image, severity, corruption)
        np.random.set_state(state)
        np.testing.assert_array_equal(output.astype(np.uint8), expected)
