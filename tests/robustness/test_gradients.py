"""Input gradients by hand and by finite differences, alone and through DiffAug."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from diffaug_transforms import DiffAug, ScoreNetwork
from diffaug_transforms.robustness import gradient_alignment, input_gradient
from tests.mixture_oracle import MixtureOracle


def images(number: int = 3, size: int = 16) -> Tensor:
    return 0.3 + 0.4 * torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(0))


def linear_classifier(size: int = 16, classes: int = 7) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, classes)).eval()


def test_of_a_linear_classifier_by_hand(classifier):
    """The logit's gradient is its row of weights, the log-probability's that row minus the mean one under softmax."""
    labels = torch.tensor([2, 0, 6])
    weight = classifier[1].weight
    rows = weight[labels].reshape(3, 3, 16, 16)
    assert torch.allclose(input_gradient(classifier, images(), labels, output="logit"), rows, atol=1e-7)
    mean = (classifier(images()).softmax(1) @ weight).reshape(3, 3, 16, 16)
    assert torch.allclose(input_gradient(classifier, images(), [2, 0, 6]), rows - mean, atol=1e-6)


def test_uint8_and_inference_mode(classifier, network):
    pixels = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    expected = input_gradient(classifier, pixels.float() / 255, [1, 3])
    assert torch.equal(input_gradient(classifier, pixels, [1, 3]), expected)
    augment = DiffAug(network, timesteps=50, differentiable=True, dtype=torch.float32)
    params = augment.make_params([pixels])
    denoiser = partial(augment.transform, params=params)
    expected = input_gradient(classifier, pixels, [1, 3], denoiser=denoiser)
    with torch.inference_mode():
        same = input_gradient(classifier, pixels.clone(), torch.tensor([1, 3]), denoiser=denoiser)
    assert torch.allclose(same, expected, atol=1e-6)


def test_through_diffaug_it_is_the_total_derivative(schedule):
    """Finite differences along random directions, on an oracle whose denoiser is not linear."""
    oracle = MixtureOracle(schedule, size=4)
    options = {"differentiable": True, "dtype": torch.float32, "generator": torch.Generator().manual_seed(0)}
    augment = DiffAug(ScoreNetwork(oracle, schedule), timesteps=[60, 200, 400], **options)
    classifier, batch, labels = linear_classifier(4), images(size=4), torch.tensor([2, 0, 6])
    params = augment.make_params([batch])
    denoiser = partial(augment.transform, params=params)
    gradient = input_gradient(classifier, batch, labels, denoiser=denoiser)

    def value(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return classifier(denoiser(inputs)).double().log_softmax(1)[torch.arange(3), labels]

    for seed in range(3):
        direction = torch.randn(batch.shape, generator=torch.Generator().manual_seed(seed))
        step = 0.002 * direction
        slope = (value(batch + step) - value(batch - step)) / 0.004
        assert torch.allclose((gradient * direction).sum((1, 2, 3)).double(), slope, rtol=0.01, atol=1e-4)
    at_the_denoised = input_gradient(classifier, denoiser(batch).detach(), labels)
    assert not torch.allclose(gradient, at_the_denoised, rtol=0.2)


def test_the_old_keyword_warns_once(classifier):
    with pytest.warns(DeprecationWarning, match="denoiser") as caught:
        old = input_gradient(classifier, images(), [0, 1, 2], through=torch.sqrt)
    assert [warning.filename for warning in caught] == [__file__]
    assert torch.equal(old, input_gradient(classifier, images(), [0, 1, 2], denoiser=torch.sqrt))


def test_nothing_is_left_behind(classifier, network):
    augment = DiffAug(network, timesteps=50, differentiable=True, dtype=torch.float32)
    batch = images().requires_grad_()
    gradient = input_gradient(classifier, batch, [0, 1, 2], denoiser=augment)
    assert (gradient.shape, gradient.dtype, gradient.requires_grad) == (batch.shape, torch.float32, False)
    assert gradient.abs().amax((1, 2, 3)).min() > 0
    assert batch.grad is None
    for parameter in (*classifier.parameters(), *network.parameters()):
        assert parameter.grad is None
    assert all(parameter.requires_grad for parameter in classifier.parameters())


def test_alignment_by_hand():
    """x = (3, 4), g = (0, -2): |<x, g>| / ||g|| = 4, cosine 4/5. A scale of g changes nothing; parallel gives 1."""
    x = torch.tensor([[3.0, 4.0], [3.0, 4.0], [1.0, 0.0], [1.0, 2.0]]).reshape(4, 1, 1, 2)
    g = torch.tensor([[0.0, -2.0], [30.0, 40.0], [0.0, 5.0], [0.0, 0.0]]).reshape(4, 1, 1, 2)
    lengths, cosines = gradient_alignment(x, g), gradient_alignment(x, g, cosine=True)
    assert lengths[:3].tolist() == [4.0, 5.0, 0.0]
    assert cosines[:3].tolist() == pytest.approx([0.8, 1.0, 0.0])
    assert math.isnan(lengths[3])
    assert math.isnan(cosines[3])


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 1, 7], {}, "labels must be in 0...6. Got 7"),
        ([0, -1, 2], {}, "labels must be in 0...6. Got -1"),
        ([0, 1], {}, "labels must be one per image. Got 2 for 3 images"),
        (None, {}, "labels must be one per image. Got None"),
        ([0, 1, 2], {"output": "loss"}, "output must be one of .*Got 'loss'"),
    ],
)
def test_bad_labels_and_output(classifier, labels, options, message):
    with pytest.raises(ValueError, match=message):
        input_gradient(classifier, images(), labels, **options)


def test_other_bad_input(classifier, network):
    with pytest.raises(ValueError, match=r"in \[0, 1\]. Got values in \[2.0, 2.0\]"):
        input_gradient(classifier, torch.full((1, 3, 16, 16), 2.0), [0])
    with pytest.raises(ValueError, match="denoiser must let gradients pass"):
        input_gradient(classifier, images(), [0, 1, 2], denoiser=DiffAug(network))
    with pytest.raises(ValueError, match=r"gradients must be like images, \(3, 3, 16, 16\). Got \(1, 3, 16, 16\)"):
        gradient_alignment(images(), images(1))
    with pytest.raises(TypeError, match="cosine must be True or False. Got 1"):
        gradient_alignment(images(), images(), cosine=1)
    with pytest.raises(TypeError, match="classifier must be a module .* Got None"):
        input_gradient(None, images(), [0, 1, 2])
    with pytest.raises(TypeError, match="denoiser must be a function of images or None. Got 'cifar10'"):
        input_gradient(classifier, images(), [0, 1, 2], denoiser="cifar10")
    with pytest.raises(ValueError, match=r"logits \(B, K\), here \(3, K\). Got shape \(2304,\)"):
        input_gradient(lambda batch: batch.flatten(), images(), [0, 1, 2])


def test_classifiers_in_low_precision_and_empty_batches(classifier):
    expected = input_gradient(classifier, images(), [0, 1, 2])
    got = input_gradient(classifier.bfloat16(), images(), [0, 1, 2])
    assert got.dtype == torch.float32
    assert torch.allclose(got, expected, atol=0.02 * expected.abs().max())
    assert input_gradient(classifier, images()[:0], torch.empty(0).long()).shape == (0, 3, 16, 16)
