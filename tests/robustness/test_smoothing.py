"""Denoised smoothing: statistics by hand, and votes on the Gaussian oracle, where their probabilities are known."""

from __future__ import annotations

import math
import sys
from statistics import NormalDist

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.robustness import ABSTAIN, DenoisedSmoothing
from diffaug_transforms.robustness.smoothing import certify_votes, lower_confidence_bound, predict_votes
from diffaug_transforms.score import NoiseSchedule
from tests.conftest import GaussianOracle, tiny_unet

PHI = NormalDist().cdf
SIGMA = 0.5


class Linear(nn.Module):
    """Two classes by the sign of mean pixel - threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        value = images.mean((1, 2, 3)) - self.threshold
        return torch.stack([-value, value], 1)


def image(seed: int = 0, size: int = 8) -> Tensor:
    return 0.4 + 0.2 * torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed))


def smoothed_oracle(threshold: float, **options) -> DenoisedSmoothing:
    """On data of variance small enough that no denoised pixel is ever clipped."""
    schedule = NoiseSchedule.named("linear", 1000)
    network = ScoreNetwork(GaussianOracle(schedule, variance=0.04), schedule)
    generator = torch.Generator().manual_seed(0)
    options = {"sigma": SIGMA, "dtype": torch.float32, "generator": generator, **options}
    return DenoisedSmoothing(Linear(threshold), network, **options)


def posterior(smoothed: DenoisedSmoothing) -> tuple[float, float, float]:
    """The oracle's data mean, its gain by x_t, and sqrt(alphas_cumprod)."""
    abar = float(smoothed.denoiser.network.schedule.alphas_cumprod.double()[smoothed.timestep])
    oracle = smoothed.denoiser.network.unet
    return oracle.mean, math.sqrt(abar) * oracle.variance / (abar * oracle.variance + 1 - abar), math.sqrt(abar)


def vote_mean_and_deviation(smoothed: DenoisedSmoothing, pixels: Tensor) -> tuple[float, float]:
    """Of the mean pixel of the denoised image in [0, 1], which is normal."""
    mean, gain, scale = posterior(smoothed)
    centre = mean + gain * scale * (2 * float(pixels.double().mean()) - 1 - mean)
    return (centre + 1) / 2, gain * scale * smoothed.sigma / math.sqrt(pixels.numel())


def threshold_for(probability: float, pixels: Tensor) -> float:
    """The threshold at which class 1 wins a draw with this probability."""
    centre, deviation = vote_mean_and_deviation(smoothed_oracle(0.0), pixels)
    return centre - deviation * NormalDist().inv_cdf(probability)


@pytest.mark.parametrize(
    ("name", "steps", "expected"), [("linear", 1000, (145, 259, 396)), ("cosine", 4000, (1158, 1984, 2809))]
)
def test_timesteps_are_those_of_the_reference(name, steps, expected):
    schedule = NoiseSchedule.named(name, steps)
    network = ScoreNetwork(GaussianOracle(schedule), schedule)
    found = [DenoisedSmoothing(nn.Identity(), network, sigma).timestep for sigma in (0.25, 0.5, 1.0)]
    assert found == list(expected)


def test_denoising_is_the_oracles_posterior_mean_of_the_noisy_image():
    smoothed = smoothed_oracle(0.0)
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    mean, gain, scale = posterior(smoothed)
    noisy = image().double() + SIGMA * noise.double()
    x_t = scale * (2 * noisy - 1)
    expected = (mean + gain * (x_t - scale * mean) + 1) / 2
    assert expected.min() > 0
    assert expected.max() < 1
    assert torch.allclose(smoothed.denoise(image().expand(2, -1, -1, -1), noise).double(), expected, atol=1e-5)


@pytest.mark.parametrize("failure_probability", [0.001, 0.05])
def test_bound_of_nothing_but_successes_is_the_closed_form(failure_probability):
    for n in (1, 10, 1000):
        bound = lower_confidence_bound(n, n, failure_probability)
        assert bound == pytest.approx(failure_probability ** (1 / n), rel=1e-9)
    assert lower_confidence_bound(0, 10, failure_probability) == 0


def test_bound_leaves_the_tail_that_defines_it():
    """Clopper and Pearson's p is where P(at least 7 of 10 successes) equals the failure probability."""
    p = lower_confidence_bound(7, 10, 0.05)
    tail = sum(math.comb(10, k) * p**k * (1 - p) ** (10 - k) for k in range(7, 11))
    assert tail == pytest.approx(0.05, rel=1e-9)


def test_certificates_by_hand():
    """100 of 100 at alpha .001: p = .001^(1/100) = .93325, Phi^-1(p) = 1.5006. Of 5 of 5 at .04: p = .525."""
    assert certify_votes(3, 100, 100, sigma=0.5, failure_probability=0.001) == (3, pytest.approx(0.7503, abs=1e-4))
    prediction, radius = certify_votes(1, 5, 5, sigma=2.0, failure_probability=0.04)
    assert (prediction, PHI(radius / 2.0)) == (1, pytest.approx(0.04**0.2))


def test_a_bound_below_a_half_abstains():
    """.03^(1/5) = .496."""
    assert certify_votes(1, 5, 5, sigma=2.0, failure_probability=0.03) == (ABSTAIN, 0.0)
    assert certify_votes(1, 50, 100, sigma=1.0, failure_probability=0.001) == (ABSTAIN, 0.0)


def test_predictions_by_hand():
    """Two-sided p of k of k votes is 2^(1 - k): .00195 for 10, .00098 for 11. Third classes do not count."""
    assert predict_votes(torch.tensor([0, 10, 0]), 0.001) == ABSTAIN
    assert predict_votes(torch.tensor([0, 11, 0]), 0.001) == 1
    assert predict_votes(torch.tensor([0, 0, 10]), 0.002) == 2
    assert predict_votes(torch.tensor([5, 5]), 0.99) == ABSTAIN
    # Of 11 votes, 10 + 1: p = 2 (1 + 11) / 2^11 = .0117; of 12 it would be .0386.
    assert predict_votes(torch.tensor([1, 10, 1]), 0.0118) == 1
    assert predict_votes(torch.tensor([1, 10, 1]), 0.0117) == ABSTAIN


@pytest.mark.parametrize("probability", [0.3, 0.9])
def test_votes_come_with_the_closed_forms_probability(probability):
    smoothed = smoothed_oracle(threshold_for(probability, image()))
    n = 4000
    votes = smoothed.counts(image(), smoothed.draw_noise(image(), n))
    assert votes.sum() == n
    assert abs(int(votes[1]) / n - probability) < 4 * math.sqrt(probability * (1 - probability) / n)


def test_a_certified_radius_is_below_the_true_one_and_near_it():
    """The noisy mean pixel is centre + deviation * normal, so the true radius is sigma Phi^-1(probability)."""
    smoothed = smoothed_oracle(threshold_for(0.9, image()))
    prediction, radius = smoothed.certify(image(), n=4000)
    true = SIGMA * NormalDist().inv_cdf(0.9)
    assert prediction == 1
    assert 0.9 * true < radius < true
    # At the true radius, straight towards the threshold, class 1 wins half of the draws.
    centre, _ = vote_mean_and_deviation(smoothed, image() - true / math.sqrt(image().numel()))
    assert centre == pytest.approx(smoothed.classifier.threshold, abs=1e-6)
    assert smoothed.predict(image()) == 1


def test_undecided_votes_abstain():
    smoothed = smoothed_oracle(threshold_for(0.5, image()))
    assert smoothed.certify(image(), n=200) == (ABSTAIN, 0.0)
    assert smoothed.predict(image()) == ABSTAIN


def test_memory_is_bounded_by_max_batch():
    smoothed = smoothed_oracle(0.5, max_batch=7)
    sizes = []
    unet = smoothed.denoiser.network.unet
    handle = unet.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    smoothed.certify(image(), n0=10, n=30)
    handle.remove()
    assert sizes == smoothed.classifier.sizes == [7, 3] + [7, 7, 7, 7, 2]
    assert smoothed(torch.rand(9, 3, 8, 8)).shape == (9, 2)
    assert smoothed.classifier.sizes[-2:] == [7, 2]


def test_progress_is_shown_where_asked_for(capsys):
    smoothed_oracle(0.5, max_batch=7).predict(image(), n=10)
    assert capsys.readouterr().err == ""
    smoothed_oracle(0.5, max_batch=7, progress=True).predict(image(), n=10)
    assert "2/2" in capsys.readouterr().err


def test_votes_are_deterministic_for_given_noise_and_draws_for_a_given_seed():
    noise = list(smoothed_oracle(0.5, max_batch=8).draw_noise(image(), 20))
    again = list(smoothed_oracle(0.5, max_batch=8).draw_noise(image(), 20))
    assert [len(part) for part in noise] == [8, 8, 4]
    assert all(torch.equal(a, b) for a, b in zip(noise, again))
    smoothed = smoothed_oracle(threshold_for(0.5, image()))
    votes = smoothed.counts(image(), noise)
    assert torch.equal(votes, smoothed.counts(image(), [torch.cat(noise)]))
    logits = smoothed.classify(image().expand(20, -1, -1, -1), torch.cat(noise))
    assert torch.equal(votes, logits.argmax(1).bincount(minlength=2))
    assert 0 < votes[0] < 20


def test_forward_is_one_draw_of_the_base_classifier():
    batch = torch.stack([image(), image()])
    logits = smoothed_oracle(0.5)(batch)
    noise = torch.randn(batch.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(logits, smoothed_oracle(0.5).classify(batch, noise))
    assert not torch.equal(logits[0], logits[1])


def test_images_uint8_pil_and_of_any_size():
    smoothed = DenoisedSmoothing(Linear(0.5), ScoreNetwork(tiny_unet(), NoiseSchedule.named("linear")), max_batch=4)
    batch = torch.randint(256, (1, 3, 11, 13), dtype=torch.uint8)
    noise = list(smoothed.draw_noise(batch[0], 8))
    assert noise[0].shape == (4, 3, 11, 13)
    votes = smoothed.counts(batch[0], noise)
    for same in (batch.float() / 255, F.to_pil_image(batch[0])):
        assert torch.equal(votes, smoothed.counts(same, noise))


def test_the_classifier_gets_normalised_denoised_images():
    batch, noise = image()[None], torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smoothed = smoothed_oracle(0.5, normalize=([0.5] * 3, [0.25] * 3))
    expected = smoothed.classifier((smoothed.denoise(batch, noise) - 0.5) / 0.25)
    assert torch.allclose(smoothed.classify(batch, noise), expected, atol=1e-6)


def test_eval_mode_and_repr():
    classifier = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3 * 8 * 8), nn.Dropout(0.9), nn.Linear(3 * 8 * 8, 4))
    schedule = NoiseSchedule.named("linear")
    smoothed = DenoisedSmoothing(classifier, ScoreNetwork(GaussianOracle(schedule), schedule))
    noise = list(smoothed.draw_noise(image(), 30))
    assert torch.equal(smoothed.counts(image(), noise), smoothed.counts(image(), noise))
    assert not classifier.training
    assert "sigma=0.25" in repr(smoothed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, "sigma must be finite and above 0. Got 0.0"),
        ({"sigma": float("nan")}, "sigma must be finite and above 0. Got nan"),
        ({"sigma": 25}, r"sigma is on pixels in \[0, 1\] and must be at most 2. Got 25: .* divide it by 255"),
        ({"sigma": "0.5"}, "sigma must be a number. Got '0.5'"),
        ({"generator": 42}, "generator must be a torch.Generator or None. Got 42"),
        ({"max_batch": 2.5}, "max_batch must be an integer. Got 2.5"),
        ({"progress": None}, "progress must be True or False. Got None"),
        ({"normalize": (0.5, 0.0)}, "std must be finite and above 0. Got 0.0"),
        ({"n": 10.0}, "n must be an integer. Got 10.0"),
        ({"failure_probability": float("nan")}, r"failure_probability must be in \(0, 1\). Got nan"),
        ({"n": 0}, "n must be at least 1. Got 0"),
        ({"n0": -1}, "n0 must be at least 1. Got -1"),
        ({"failure_probability": 1.0}, r"failure_probability must be in \(0, 1\). Got 1.0"),
    ],
)
def test_bad_arguments(options, message):
    draws = {name: options.pop(name) for name in ("n", "n0", "failure_probability") if name in options}
    with pytest.raises((TypeError, ValueError), match=message):
        smoothed_oracle(0.5, **options).certify(image(), **draws)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DenoisedSmoothing(None), "classifier must be a module from images to logits"),
        (lambda: DenoisedSmoothing("resnet18"), "Got 'resnet18'"),
        (lambda: certify_votes(0, 5, 4, 0.5, 0.01), r"count must be in 0\.\.\.4. Got 5"),
        (lambda: certify_votes(0, 1, 4, math.nan, 0.01), "sigma must be finite and above 0. Got nan"),
        (lambda: predict_votes([3, 1], 0.01), r"votes must be a Tensor. Got \[3, 1\]"),
        (lambda: predict_votes(torch.tensor([3]), 0.01), "votes must be counts of at least 2 classes"),
    ],
)
def test_bad_classifiers_and_votes(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_classifier_runs_in_its_own_dtype(dtype):
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    schedule = NoiseSchedule.named("linear")
    smoothed = DenoisedSmoothing(classifier, ScoreNetwork(GaussianOracle(schedule), schedule), dtype=torch.float32)
    batch, noise = image()[None], torch.zeros(1, 3, 8, 8)
    expected = smoothed.classify(batch, noise)
    for wrapper in (smoothed.to(dtype), DenoisedSmoothing(classifier, smoothed.denoiser)):
        logits = wrapper.classify(batch, noise)
        assert logits.dtype == torch.float32
        assert torch.allclose(logits, expected, atol=0.02)


def test_bad_images_and_classifiers():
    smoothed = smoothed_oracle(0.5)
    with pytest.raises(ValueError, match=r"image must be one image, \(C, H, W\). Got 2 images"):
        smoothed.predict(torch.rand(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"in \[0, 1\]. Got values in \[2.0, 2.0\]"):
        smoothed.predict(torch.full((3, 8, 8), 2.0))
    smoothed.classifier = nn.Flatten(0)
    with pytest.raises(ValueError, match=r"logits \(B, K\), here \(100, K\). Got shape \(19200,\)"):
        smoothed.predict(image())
    smoothed.classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    nn.init.constant_(smoothed.classifier[1].bias, math.nan)
    with pytest.raises(ValueError, match="classifier must return no NaN. Got 200 of 200"):
        smoothed.predict(image())


def test_a_missing_scipy_is_named_before_any_draw(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    smoothed = smoothed_oracle(0.5)
    for ask in (smoothed.certify, smoothed.predict):
        with pytest.raises(ImportError, match=r"diffaug-transforms\[benchmarks\]"):
            ask(image())
    assert smoothed.classifier.sizes == []
