"""The guide: its two formulas, and Bayes' rule: guided by the exact posterior, a mixture gives one component."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.guidance import DenoiseAugmentedClassifier, NoisyClassifier, classifier_guide
from diffaug_transforms.score import NoiseSchedule, space_timesteps
from diffaug_transforms.score.functional import ReverseStep
from diffaug_transforms.score.sampling import METHODS, Guide, sample
from tests.guidance.guidance_encoders import tiny_encoder
from tests.mixture_oracle import MixtureOracle

WEIGHT = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))


def linear_classifier(x_t: Tensor, timesteps: Tensor) -> Tensor:
    return x_t.flatten(1) @ WEIGHT.T


def exact_posterior(oracle: MixtureOracle, schedule: NoiseSchedule) -> Callable[[Tensor, Tensor], Tensor]:
    """log p(component | x_t): component k of x_t is N(a m_k, a^2 variance_k + b^2) with weight w_k."""

    def log_probabilities(x_t: Tensor, timesteps: Tensor) -> Tensor:
        a, b = (table.double()[timesteps][:, None] for table in (schedule.signal_scale, schedule.noise_scale))
        variances = a**2 * oracle.variances + b**2
        distances = (x_t.double().flatten(1)[:, None] - a[..., None] * oracle.means).square().sum(2)
        log_densities = -distances / (2 * variances) - oracle.means.shape[1] / 2 * variances.log()
        return (oracle.weights.log() + log_densities).log_softmax(1)

    return log_probabilities


def test_formulas_by_hand(schedule):
    """A linear classifier's gradient is its label's row minus the rows' mean under softmax."""
    generator = torch.Generator().manual_seed(0)
    x_t, pred_x0, mean = (torch.randn(3, 3, 2, 2, generator=generator) for _ in range(3))
    log_variance = torch.linspace(-3, -1, 36).reshape(3, 3, 2, 2)
    t, labels = torch.tensor([10, 400, 900]), torch.tensor([0, 4, 2])
    guide = classifier_guide(linear_classifier, labels, 2.5, schedule=schedule)
    step = guide(x_t, t, lambda x: ReverseStep(pred_x0, mean, log_variance))
    rows = WEIGHT[labels] - linear_classifier(x_t, t).softmax(1) @ WEIGHT
    gradient = 2.5 * rows.reshape(x_t.shape)
    assert torch.allclose(step.mean, mean + log_variance.exp() * gradient, atol=1e-5)
    assert torch.equal(step.log_variance, log_variance)
    abar = schedule.alphas_cumprod.double()[t].reshape(-1, 1, 1, 1)
    eps = (x_t - abar.sqrt() * pred_x0) / (1 - abar).sqrt()
    eps = eps - (1 - abar).sqrt() * gradient
    assert torch.allclose(step.pred_x0.double(), (x_t - (1 - abar).sqrt() * eps) / abar.sqrt(), rtol=1e-4, atol=1e-4)


class ComponentOracle(nn.Module):
    """The exact noise prediction where each image of the batch is of its own component of a mixture."""

    def __init__(self, oracle: MixtureOracle, components: Tensor, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.config, self.schedule = oracle.config, schedule
        self.means, self.variances = oracle.means[components], oracle.variances[components][:, None]

    def forward(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        a, b = (table.double()[timesteps][:, None] for table in (self.schedule.signal_scale, self.schedule.noise_scale))
        eps = b * (x_t.double().flatten(1) - a * self.means) / (a**2 * self.variances + b**2)
        return eps.reshape(x_t.shape)


@pytest.mark.parametrize(
    ("method", "schedule", "tolerance"),
    [
        ("ancestral", NoiseSchedule.named("linear"), 0.005),
        ("ddim", NoiseSchedule.named("linear"), 1e-5),
        ("ddim", NoiseSchedule.variance_exploding(0.02, 100, 1000), 1e-5),
    ],
)
def test_exact_posterior_samples_the_labels_component(method, schedule, tolerance):
    """Bayes' rule: the unconditional network and p(k | x_t) make what the network of component k alone makes.

    DDIM's formula is exact at every step; the ancestral one is of first order in the step (alg. 1's Taylor expansion).
    """
    oracle, labels = MixtureOracle(schedule), torch.arange(400) % 2 * 3
    guide = classifier_guide(exact_posterior(oracle, schedule), labels, schedule=schedule)
    noise = torch.randn(400, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    start, steps = schedule.noise_scale[-1] * noise, space_timesteps(1000, 200)

    def walk(unet: nn.Module, guide: Guide | None = None) -> Tensor:
        network = ScoreNetwork(unet, schedule, variance_type="fixed_large")
        generator = torch.Generator().manual_seed(1)
        return sample(network, start, steps, method=method, guide=guide, generator=generator).flatten(1)

    guided, free = walk(oracle, guide), walk(oracle)
    assert torch.allclose(guided, walk(ComponentOracle(oracle, labels, schedule)), atol=tolerance)
    for component in (0, 3):
        chosen, mean, variance = guided[labels == component], oracle.means[component], oracle.variances[component]
        # 12 means, each of 200 numbers; the variance carries the error of 200 steps, up to 13 percent without a guide.
        assert (chosen.mean(0) - mean).abs().max() < 4 * (variance / 200).sqrt()
        assert ((chosen - mean).square().mean() / variance - 1).abs() < 0.15
        assert (free[labels == component].mean(0) - mean).abs().max() > 10 * (variance / 200).sqrt()


def test_the_classifier_sees_the_networks_own_timesteps(schedule):
    seen = []

    def classifier(x_t: Tensor, timesteps: Tensor) -> Tensor:
        seen.append((timesteps.dtype, timesteps.tolist()))
        return linear_classifier(x_t, timesteps)

    guide = classifier_guide(classifier, [0, 3], schedule=schedule)
    sample(ScoreNetwork(MixtureOracle(schedule), schedule), torch.zeros(2, 3, 2, 2), (5, 400, 900), guide=guide)
    assert seen == [(torch.int64, [t, t]) for t in (900, 400, 5)]


@pytest.mark.parametrize("method", METHODS)
def test_scale_zero_is_no_guide_and_more_scale_is_more_sure(network, method):
    x_t, steps = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), (0, 300, 600)
    classifier = NoisyClassifier(tiny_encoder())
    noise = torch.zeros(2, *x_t.shape)

    def confidence(scale: float | None) -> tuple[Tensor, Tensor]:
        guide = None if scale is None else classifier_guide(classifier, [1, 5], scale, schedule=network.schedule)
        x_0 = sample(network, x_t, steps, method=method, guide=guide, noise=noise)
        with torch.no_grad():
            return x_0, classifier(x_0, torch.tensor([0, 0])).log_softmax(1)[[0, 1], [1, 5]]

    free, guided = confidence(None), confidence(200.0)
    assert torch.allclose(confidence(0.0)[0], free[0], atol=1e-6)
    assert bool((guided[1] > free[1]).all())


def test_denoise_augmented_classifiers_guide_also_in_inference_mode(network):
    classifier = DenoiseAugmentedClassifier(tiny_encoder(0.2), network, dtype=torch.float32)
    x_t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    guide = classifier_guide(classifier, [1, 5], 3.0, schedule=network.schedule)
    expected = sample(network, x_t, (0, 500), method="ddim", guide=guide)
    assert not expected.requires_grad
    assert all(parameter.grad is None for parameter in classifier.parameters())
    with torch.inference_mode():
        guide = classifier_guide(classifier, torch.tensor([1, 5]), 3.0, schedule=network.schedule)
        same = sample(network, x_t.clone(), (0, 500), method="ddim", guide=guide)
    assert torch.allclose(same, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "scale", "message"),
    [
        (None, 1.0, "labels must be one per image. Got None"),
        ([0, -1], 1.0, "labels must be at least 0. Got -1"),
        ([0.5, 1.0], 1.0, "labels must be integer classes. Got torch.float32"),
        ([0, 1], float("nan"), "guidance_scale must be finite. Got nan"),
        ("cat", 1.0, "labels must be integer classes. Got 'cat'"),
        ([0, 1], None, "guidance_scale must be a number. Got None"),
    ],
)
def test_bad_arguments(schedule, labels, scale, message):
    with pytest.raises((TypeError, ValueError), match=message):
        classifier_guide(linear_classifier, labels, scale, schedule=schedule)


def test_what_is_no_classifier_or_schedule(schedule):
    with pytest.raises(TypeError, match="classifier must be a module .* Got 'resnet18'"):
        classifier_guide("resnet18", [0], schedule=schedule)
    with pytest.raises(TypeError, match="schedule must be a NoiseSchedule. Got None"):
        classifier_guide(linear_classifier, [0], schedule=None)


def test_what_does_not_fit_is_told_at_the_first_step(schedule):
    network, x_t = ScoreNetwork(MixtureOracle(schedule), schedule), torch.zeros(2, 3, 2, 2)

    def guided(labels: list[int], classifier=linear_classifier) -> Tensor:
        return sample(network, x_t, guide=classifier_guide(classifier, labels, schedule=schedule))

    with pytest.raises(ValueError, match="labels must be in 0...4. Got 5"):
        guided([0, 5])
    with pytest.raises(ValueError, match="labels must be one per image. Got 3 for 2 images"):
        guided([0, 1, 2])
    with pytest.raises(ValueError, match="classifier must let gradients pass to x_t. Got none"):
        guided([0, 1], torch.no_grad()(linear_classifier))
    with pytest.raises(ValueError, match=r"classifier must return logits \(2, K\). Got shape \(24,\)"):
        guided([0, 1], lambda x, t: x.flatten())
