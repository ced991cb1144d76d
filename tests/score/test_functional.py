import pytest
import torch

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.score import diffuse, to_signed, to_unit
from diffaug_transforms.score.denoiser import denoise
from diffaug_transforms.score.functional import reflect_pad_to_multiple


def test_ranges():
    image = torch.tensor([0.0, 0.25, 1.0])
    assert to_signed(image).tolist() == [-1, -0.5, 1]
    assert torch.equal(to_unit(to_signed(image)), image)


def test_diffuse_by_hand(schedule):
    x_0, noise = torch.full((2, 1, 1, 1), 0.5), torch.full((2, 1, 1, 1), 2.0)
    x_t = diffuse(x_0, torch.tensor([0, 999]), noise, schedule).flatten()
    assert x_t[0].item() == pytest.approx((1 - 1e-4) ** 0.5 * 0.5 + 1e-2 * 2, rel=1e-6)
    a = schedule.alphas_cumprod[999].item()
    assert x_t[1].item() == pytest.approx(a**0.5 * 0.5 + (1 - a) ** 0.5 * 2, rel=1e-6)


@pytest.mark.parametrize("t", [0, 1, 50, 300, 600, 998, 999])
def test_the_gaussian_oracle_is_denoised_exactly(oracle, schedule, t):
    network = ScoreNetwork(oracle, schedule)
    generator = torch.Generator().manual_seed(t)
    images = 0.55 + 0.1 * torch.randn(4, 3, 8, 8, generator=generator)
    images = images.clamp(0, 1)
    noise = torch.randn(images.shape, generator=generator)
    timesteps = torch.full((4,), t)
    output = denoise(network, images, timesteps, noise, None)
    x_t = diffuse(to_signed(images), timesteps, noise, schedule)
    expected = to_unit(oracle.posterior_mean(x_t, timesteps).clamp(-1, 1)).float()
    # float32 noise of size 1 is divided by sqrt(alphas_cumprod): 157 at t = 999.
    torch.testing.assert_close(output, expected, rtol=0, atol=2e-7 * (1 + schedule.sigmas[t].item()))


def test_reflect_pad_matches_torch_where_torch_can():
    images = torch.rand(2, 3, 10, 7)
    padded = reflect_pad_to_multiple(images, 4)
    assert torch.equal(padded, torch.nn.functional.pad(images, (0, 1, 0, 2), mode="reflect"))


def test_reflect_pad_of_very_small_images():
    row = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert reflect_pad_to_multiple(row, 8)[0, 0, 0].tolist() == [1, 2, 3, 2, 1, 2, 3, 2]
    assert reflect_pad_to_multiple(torch.ones(1, 1, 1, 1), 4).shape == (1, 1, 4, 4)


def test_no_padding_returns_the_same_tensor():
    images = torch.rand(1, 3, 8, 8)
    assert reflect_pad_to_multiple(images, 4) is images


@pytest.mark.usefixtures("fresh_compiler")
def test_the_core_compiles_whole_and_equals_eager(network):
    """One graph from images to denoised images: no check, no draw and no state inside breaks it."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 15, 16, generator=generator)
    noise = torch.randn(images.shape, generator=generator)
    arguments = (network, images, torch.tensor([10, 500]), noise, None)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(denoise, fullgraph=True)(*arguments), denoise(*arguments))
