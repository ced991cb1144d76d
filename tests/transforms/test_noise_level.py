"""estimate_sigma by hand and on noise of known size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from diffaug_transforms.transforms import estimate_sigma
from diffaug_transforms.transforms.noise_level import median_of_noise
from tests.contracts import draw, images


def reference(image: Tensor) -> float:
    """The definition for one image (C, H, W), place by place, in float64."""
    x = image.double().numpy()
    channels, height, width = x.shape
    down, across = ([1, -2, 1] if side > 2 else [1, -1] for side in (height, width))
    mask = np.outer(down, across) / np.linalg.norm(down) / np.linalg.norm(across)
    rows, columns = height - len(down) + 1, width - len(across) + 1
    squares = np.empty((rows, columns))
    for i in range(rows):
        for j in range(columns):
            residuals = (mask * x[:, i : i + len(down), j : j + len(across)]).sum((1, 2))
            squares[i, j] = (residuals**2).mean()
    h, w = min(3, rows), min(3, columns)
    means = [squares[i : i + h, j : j + w].mean() for i in range(rows - h + 1) for j in range(columns - w + 1)]
    median = sorted(means)[(len(means) - 1) // 2]  # torch's: the lower one
    return (median / median_of_noise(channels, (h, w), (len(down) - 1, len(across) - 1))) ** 0.5


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 4), st.integers(2, 9), st.integers(2, 9), st.integers(0, 2**31), st.sampled_from([0.0, 0.01, 1.0])
)
def test_the_definition_at_every_size(channels, height, width, seed, contrast):
    generator = torch.Generator().manual_seed(seed)
    batch = 0.5 + contrast * (torch.rand(3, channels, height, width, generator=generator) - 0.5)
    expected = torch.tensor([reference(image) for image in batch], dtype=torch.float32)
    torch.testing.assert_close(estimate_sigma(batch), expected, rtol=1e-4, atol=1e-6)


def test_by_hand():
    """A 2x2 image has one difference: (0.2 - 0.1 - 0.1 + 0.4) / 2 = 0.2, over the root of 0.47 for one channel."""
    image = torch.tensor([[[0.2, 0.1], [0.1, 0.4]]])
    assert estimate_sigma(image).item() == pytest.approx(0.2 / (1 - 2 / 9) ** 1.5, rel=1e-5)


@pytest.mark.parametrize("shape", [(3, 2, 2), (3, 16, 16), (1, 5, 40), (3, 31, 33)])
def test_images_without_noise_have_none(shape):
    """Constant images and straight gradients."""
    constant = torch.full(shape, 0.3)
    ramp = torch.linspace(0, 0.5, shape[-1]).expand(shape) + torch.linspace(0, 0.5, shape[-2])[:, None]
    assert estimate_sigma(constant).item() == 0
    assert estimate_sigma(ramp).item() < 1e-6


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("size", [(32, 32), (33, 47)])
def test_pure_noise(channels, sigma, size):
    estimates = estimate_sigma(0.5 + sigma * draw(50, channels, *size))
    assert estimates.mean().item() == pytest.approx(sigma, rel=0.03)
    assert estimates.std().item() < 0.08 * sigma


def test_rare_and_large_noise_is_seen():
    """One value in twenty is hit. The median of the absolute Haar differences sees almost nothing of it."""
    hit = draw(50, 3, 32, 32, seed=1) * (torch.rand(50, 3, 32, 32) < 0.05)
    batch = (0.5 + 0.3 * hit).clamp(0, 1)
    truth = (batch - 0.5).square().mean((1, 2, 3)).sqrt()
    haar = (batch[..., :-1, :-1] - batch[..., 1:, :-1] - batch[..., :-1, 1:] + batch[..., 1:, 1:]) / 2
    plain = haar.abs().flatten(1).median(dim=1).values / 0.6745
    assert 0.7 < (estimate_sigma(batch) / truth).mean().item() < 1.1
    assert (plain / truth).mean().item() < 0.1


def test_an_edge_is_no_noise():
    image = torch.zeros(3, 32, 32)
    image[:, 5:20, 7:25] = 1
    assert estimate_sigma(image).item() == 0


def test_every_type_of_image():
    pixels = images(16, dtype=torch.uint8)
    expected = estimate_sigma(pixels.float() / 255)
    assert (expected.shape, expected.dtype) == ((4,), torch.float32)
    for same in (
        pixels,
        tv_tensors.Image(pixels),
        pixels.reshape(2, 2, 3, 16, 16),
        pixels.permute(0, 2, 3, 1).numpy(),
        (pixels / 255).double(),
    ):
        torch.testing.assert_close(estimate_sigma(same), expected)
    torch.testing.assert_close(estimate_sigma(F.to_pil_image(pixels[0])), expected[:1])
    torch.testing.assert_close(estimate_sigma(pixels[0]), expected[:1])
    assert estimate_sigma(pixels[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(2, 3, 1, 5), "images must have at least 2 x 2 pixels for their noise to be seen. Got 1 x 5"),
        (torch.rand(3, 5, 1), "Got 5 x 1"),
        (torch.rand(2, 3, 8, 8) * 255, "divide by 255"),
        (torch.full((3, 8, 8), torch.nan), r"Got values in \[nan, nan\]"),
        (torch.rand(8, 8), r"images must be \(..., C, H, W\). Got shape"),
        (torch.ones(3, 8, 8).long(), "must be uint8.*Got torch.int64"),
        ("cat.png", "images must be PIL images, tensors"),
    ],
)
def test_refused(image, message):
    with pytest.raises((TypeError, ValueError), match=message):
        estimate_sigma(image)


@pytest.mark.usefixtures("fresh_compiler")
def test_it_compiles_whole():
    batch = images(16)
    torch.testing.assert_close(
        torch.compile(estimate_sigma, fullgraph=True, backend="eager")(batch), estimate_sigma(batch)
    )
