"""Each of the 15 corruptions against statistics and references computed by hand."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from torch.nn import functional as nnF

from diffaug_transforms.robustness import DATASETS, corrupt
from diffaug_transforms.robustness.corruption_constants import CONSTANTS

functions = pytest.importorskip("diffaug_transforms.robustness.corruption_functions", reason="the extra benchmarks")
if importlib.util.find_spec("imagecorruptions") is None:
    pytest.skip("the extra benchmarks", allow_module_level=True)

GREY = torch.full((4, 3, 64, 64), 128, dtype=torch.uint8)


@pytest.mark.parametrize(("dataset", "sigma"), [("cifar10-c", 0.10), ("imagenet-c", 0.38)])
def test_gaussian_noise_has_the_published_deviation(dataset, sigma):
    noise = corrupt(GREY, "gaussian_noise", dataset=dataset, seed=0).double() / 255 - 128 / 255
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
    padded = nnF.pad(samples.double(), (3, 3, 3, 3), mode="reflect")
    mean = sum(padded[..., 3 + y : 35 + y, 3 + x : 35 + x] for y, x in offsets) / 29
    assert (corrupt(samples, "defocus_blur", 1, dataset="imagenet-c") - mean).abs().max() < 1.001


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
    expected = np.uint8(255 * functions.blur(image / 255, 1.5))
    for _ in range(2):
        for row in range(28, 4, -1):
            for column in range(28, 4, -1):
                dx, dy = rng.integers(-4, 4, size=2)
                expected[row, column] = expected[row + dy, column + dx]
    expected = 255 * functions.blur(expected / 255, 1.5)
    output = functions.glass_blur(image, np.random.default_rng(0), 1.5, 4, 2)
    np.testing.assert_allclose(output, expected, atol=1e-6)


@pytest.mark.parametrize("angle", [0, 30, -45, -120])
def test_motion_is_imagemagicks_sum_along_a_line(samples, angle):
    image = samples[0].permute(1, 2, 0).numpy()
    output = functions.move(image, 20, 15, angle)
    weights = np.exp(-(np.arange(41) ** 2) / (2 * 15**2))
    expected = np.zeros(image.shape)
    for i, weight in enumerate(weights / weights.sum()):
        rows = np.arange(32) + int(np.ceil(i * np.sin(np.radians(angle)) - 0.5))
        columns = np.arange(32) + int(np.ceil(i * np.cos(np.radians(angle)) - 0.5))
        expected += weight * image[rows.clip(0, 31)][:, columns.clip(0, 31)]
    np.testing.assert_allclose(output, expected, atol=0.5001)


@pytest.mark.parametrize("corruption", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform"])
def test_blurs_and_warps_leave_a_plain_image(corruption):
    for dataset in DATASETS:
        assert (corrupt(GREY[:1], corruption, dataset=dataset, seed=0).int() - 128).abs().max() <= 1


def test_zoom_keeps_the_middle_and_enlarges_it():
    image = np.zeros((32, 32))
    image[14:18, 14:18] = 1
    large = functions.zoom(image, 2)
    assert large.shape == (32, 32)
    assert large.sum() == pytest.approx(4 * image.sum(), rel=0.2)
    assert np.argwhere(large > 0.5).mean(0) == pytest.approx([15.5, 15.5], abs=0.6)
    assert functions.zoom(np.zeros((20, 33, 3)), 1.07).shape == (20, 33, 3)


def test_frost_is_a_weighted_sum_and_snow_and_fog_are_bright():
    black, white = torch.zeros_like(GREY), torch.full_like(GREY, 255)
    assert 0 < corrupt(black, "frost", seed=0).max() <= 0.45 * 255
    assert corrupt(white, "frost", seed=0).min() >= int(0.75 * 255)
    assert corrupt(black, "snow", seed=0).float().mean() > 20
    assert corrupt(black, "fog", seed=0).max() == 0  # the published formula scales fog by the image's brightest value
    heights = functions.plasma(32, 1.75, np.random.default_rng(0))
    assert (heights.shape, heights.min(), heights.max()) == ((32, 32), 0, 1)


def test_plasma_of_side_two_by_hand():
    """The centre is drawn around the mean of four corners at 0, an edge around that of two corners and two centres."""
    draws = np.random.default_rng(0)
    centre, across, down = (draws.uniform(-(100**2), 100**2) for _ in range(3))
    expected = np.array([[0, centre / 2 + across], [centre / 2 + down, centre]])
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(functions.plasma(2, 3, np.random.default_rng(0)), expected)


def test_fog_is_rougher_where_heights_decay_less():
    def roughness(decay: float) -> float:
        maps = [functions.plasma(64, decay, np.random.default_rng(seed)) for seed in range(8)]
        return float(np.mean([np.abs(np.diff(heights)).mean() / heights.std() for heights in maps]))

    assert roughness(1.4) > 1.5 * roughness(3)


def test_pixelate_at_one_half_is_the_mean_of_blocks(samples):
    """Of 2x2 pixels, rounded once per axis."""
    blocks = nnF.avg_pool2d(samples.double(), 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert (corrupt(samples, "pixelate", 2, dataset="imagenet-c") - blocks).abs().max() <= 1


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
