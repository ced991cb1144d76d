"""airbench94: its whitening, its start as the identity, its shapes."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import functional as F

from diffaug_transforms.airbench import WHITENING_EPSILON, Airbench, set_whitening
from diffaug_transforms.classifiers import build_model
from diffaug_transforms.images import sample_images


def photos() -> torch.Tensor:
    """Real images, normalised."""
    return (
        torch.stack([F.to_dtype(F.to_image(image), torch.float32, scale=True) for image in sample_images().values()])
        * 4
        - 2
    )


@pytest.mark.parametrize("side", [16, 32, 48])
def test_images_of_several_sizes(side):
    assert build_model("airbench94", 7)(torch.rand(2, 3, side, side)).shape == (2, 7)


def test_whitened_patches_have_unit_variance_and_no_correlation():
    model, images = Airbench(), photos()
    set_whitening(model, images)
    half = model.whiten.weight[:12]
    outputs = nn.functional.conv2d(images, half).transpose(0, 1).flatten(1)
    second_moments = outputs @ outputs.T / outputs.shape[1]
    # The variance of a flat direction stays below 1: it is v / (v + epsilon).
    diagonal = second_moments.diagonal()
    assert (second_moments - diagonal.diag()).abs().max() < 1e-3
    assert diagonal.max() < 1.001
    values = torch.linalg.eigvalsh(torch.linalg.inv(half.flatten(1) @ half.flatten(1).T))
    assert values.min() >= 0.999 * WHITENING_EPSILON
    assert torch.equal(model.whiten.weight[12:], -half)
    assert not model.whiten.weight.requires_grad


def test_a_group_starts_as_the_identity_of_its_first_channels():
    """The first convolution passes its input on, so before pooling the channels are those of the input."""
    for group in Airbench().groups[1:]:
        inputs = group[0].in_channels
        features = torch.rand(2, inputs, 8, 8)
        torch.testing.assert_close(group[0](features)[:, :inputs], features)


def test_at_32_pixels_the_maximum_is_the_papers_pooling_by_3():
    model = Airbench(5).eval()
    features = model.groups(model.whiten(torch.rand(2, 3, 32, 32)))
    assert features.shape[2:] == (3, 3)
    pooled = model.head(nn.functional.max_pool2d(features, 3).flatten(1)) / 9
    torch.testing.assert_close(model.head(features.amax(dim=(2, 3))) / 9, pooled)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_in_bfloat16_its_gradients_are_those_without_the_compiler():
    model, images = Airbench(), torch.rand(4, 3, 32, 32)
    gradients = []
    for forward in (model, torch.compile(model)):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = forward(images)
        logits.float().logsumexp(1).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    plain, compiled = gradients
    assert torch.cosine_similarity(plain, compiled, dim=0) > 0.98


def test_only_biases_of_norms_learn_fast():
    model = Airbench()
    assert [bias.shape[0] for bias in model.norm_biases()] == [64, 64, 256, 256, 256, 256]
    assert all(bias.requires_grad for bias in model.norm_biases())
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 1_971_352


def test_errors():
    with pytest.raises(ValueError, match=re.escape("there are no pretrained weights for airbench94")):
        build_model("airbench94", 10, pretrained=True)
    with pytest.raises(ValueError, match=re.escape("num_classes must be at least 1. Got 0")):
        Airbench(0)
