"""``functional.diffaug`` is DiffAug on a given draw, for every kind of image."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import DiffAug, ScoreNetwork
from diffaug_transforms.score import Denoiser
from diffaug_transforms.transforms import functional
from tests.conftest import tiny_unet

BATCH = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
IMAGES = {
    "batch": BATCH,
    "uint8": (255 * BATCH).byte(),
    "video": tv_tensors.Video((255 * BATCH).byte()),
    "half": BATCH[0].half(),
    "array": (255 * BATCH).byte().permute(0, 2, 3, 1).numpy(),
    "PIL": F.to_pil_image(BATCH[0]),
}


@pytest.mark.parametrize("name", IMAGES)
def test_it_is_diffaugs_transform_of_the_same_draw(network, name):
    image = IMAGES[name]
    augment = DiffAug(Denoiser(network, dtype=torch.float32), timesteps=range(100, 900))
    params = augment.make_params([image])
    view = functional.diffaug(image, params["timesteps"], params["noise"], augment.denoiser)
    expected = augment.transform(image, params)
    assert type(view) is type(image)
    assert np.array_equal(np.asarray(view), np.asarray(expected))
    assert not np.array_equal(np.asarray(view), np.asarray(image))
    if isinstance(image, PIL.Image.Image):
        assert view.size == image.size


def test_labels(schedule):
    denoiser = Denoiser(ScoreNetwork(tiny_unet(6), schedule, null_class=5), dtype=torch.float32)
    draw = (BATCH, torch.tensor([300, 300]), torch.ones_like(BATCH), denoiser)
    assert not torch.equal(functional.diffaug(*draw, labels=[1, 2]), functional.diffaug(*draw))
    with pytest.raises(ValueError, match=r"labels must be in 0...4. Got 9"):
        functional.diffaug(*draw, labels=[1, 9])


def test_what_it_does_not_take(network):
    denoiser, noise = Denoiser(network), torch.ones_like(BATCH)
    with pytest.raises(TypeError, match=r"denoiser must be a Denoiser: Denoiser\(network\). Got 'cifar10'"):
        functional.diffaug(BATCH, torch.tensor([1, 2]), noise, "cifar10")
    with pytest.raises(ValueError, match="one for each of the 2 images"):
        functional.diffaug(BATCH, torch.tensor([1]), noise, denoiser)
    with pytest.raises(ValueError, match="must be finite and in"):
        functional.diffaug(2 * BATCH, torch.tensor([1, 2]), noise, denoiser)


def test_wrong_labels_of_a_named_network_are_told_the_names():
    augment = DiffAug("cifar10", conditional=True)
    images = torch.rand(2, 3, 32, 32)
    names = "airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck"
    with pytest.raises(ValueError, match=rf"labels must be in 0...9 \({names}\). Got 12"):
        augment(images, torch.tensor([1, 12]))
    with pytest.raises(ValueError, match=f"labels must be integer classes, 0...9 for {names}. Got"):
        augment(images, ["cat", "dog"])
