"""The embedded network for photos: its size and cost, the images it takes, and how well it denoises."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import DiffAug, list_score_networks, load_score_network
from diffaug_transforms.images import sample_photo
from diffaug_transforms.score import Denoiser
from diffaug_transforms.score.memory import LiveBytes
from tests import contracts


def photo(height: int = 224, width: int = 224) -> Tensor:
    """(1, 3, height, width) in [0, 1], the centre of the sample photo."""
    return F.center_crop(F.pil_to_tensor(sample_photo())[None], [height, width]) / 255


def psnr(image: Tensor, truth: Tensor) -> float:
    return float(-10 * (image - truth).square().mean().log10())


def test_it_is_small_and_convolutional():
    network = load_score_network("photos")
    assert sum(p.numel() for p in network.parameters()) < 9e6
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eps(torch.zeros(1, 3, 224, 224), torch.tensor([100]))
    assert counter.get_total_flops() < 40e9
    assert not any("attention" in type(module).__name__.lower() for module in network.modules())


def test_memory_is_linear_in_the_area():
    denoiser = Denoiser("photos", dtype=torch.float32)

    def peak(side: int) -> int:
        image = torch.zeros(1, 3, side, side)
        with LiveBytes() as live:
            denoiser(image, torch.tensor([100]), image)
        return live.peak

    peak(32)  # loads
    assert peak(256) / peak(128) == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (224, 224), (150, 301)])
def test_any_size_from_32_pixels_without_a_warning(height, width):
    image = photo(height, width)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = DiffAug("photos", timesteps=50)(image)
    assert found.shape == image.shape
    assert psnr(found, image) > 24


def test_timesteps_follow_the_size_of_the_images():
    augment = DiffAug("photos")
    torch.manual_seed(0)
    drawn = {
        side: torch.cat([augment.make_params([photo(side, side)])["timesteps"] for _ in range(300)]).max()
        for side in (32, 224)
    }
    small = load_score_network("cifar10").augment_timesteps
    assert 0.9 * max(small) < drawn[32] <= max(small)
    assert drawn[224] > 980
    assert list_score_networks()["photos"].image_size is None


def test_it_denoises_a_photo_it_never_saw():
    """FFDNet has 34.54, 31.50, 28.59 and 27.26 dB for this crop and noise. The network may have 0.3 dB less."""
    denoiser, image = Denoiser("photos", dtype=torch.float32), photo()
    for t, at_least in ((25, 34.24), (50, 31.20), (100, 28.29), (145, 26.96)):
        noise = contracts.draw(1, 3, 224, 224, seed=t)
        assert psnr(denoiser(image, torch.tensor([t]), noise), image) > at_least


def test_large_noise_leaves_colours_and_shapes():
    """At t = 300 to 600 little is left of the image: the result must be nearer to it than its mean colour is."""
    denoiser, image = Denoiser("photos", dtype=torch.float32), photo()
    grey = image.mean((2, 3), keepdim=True).expand_as(image)
    for t, gain in ((300, 6.0), (450, 3.0), (600, 0.0)):
        found = denoiser(image, torch.tensor([t]), contracts.draw(1, 3, 224, 224, seed=t))
        assert psnr(found, image) > psnr(grey, image) + gain
