"""Variance-exploding schedules: by hand, and everything that runs on them against the Gaussian oracle."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from diffusers import ScoreSdeVeScheduler
from torch import Tensor, nn

from diffaug_transforms import DiffAug, DiffAugEnsemble, ScoreNetwork
from diffaug_transforms.robustness import DDA, DenoisedSmoothing, jacobian_vector_product, vector_jacobian_product
from diffaug_transforms.score import NoiseSchedule, diffuse, match_timesteps, space_timesteps, to_signed, to_unit
from diffaug_transforms.score.sampling import sample
from tests import contracts
from tests.conftest import GaussianOracle
from tests.exploding_oracle import EXPLODING, draw, score_network
from tests.mixture_oracle import MixtureOracle
from tests.robustness.test_jacobian import full_matrix
from tests.score.test_network import Predicts

TIMESTEPS = torch.tensor([0, 300, 700, 999])


@pytest.fixture
def scheduler() -> ScoreSdeVeScheduler:
    return ScoreSdeVeScheduler(1000, sigma_min=0.01, sigma_max=50)


@pytest.fixture
def x_t() -> Tensor:
    x_0 = 0.1 + 0.2 * draw(4, 3, 8, 8)
    return diffuse(x_0, TIMESTEPS, draw(4, 3, 8, 8, seed=1), EXPLODING)


def test_sigmas_are_geometric_and_the_image_is_kept():
    schedule = NoiseSchedule.variance_exploding(0.1, 10, 5)
    assert schedule.sigmas.tolist() == pytest.approx([0.1, 10**-0.5, 1, 10**0.5, 10])
    assert torch.equal(schedule.noise_scale, schedule.sigmas)
    assert schedule.signal_scale.tolist() == [1] * 5
    assert diffuse(torch.full((1, 1, 1, 1), 0.5), torch.tensor([2]), torch.full((1, 1, 1, 1), 2.0), schedule) == 2.5
    assert schedule != NoiseSchedule(torch.tensor([0.1, 0.2, 0.3]))
    assert schedule.to("cpu") == NoiseSchedule.variance_exploding(0.1, 10, 5)


def test_sigmas_are_those_of_diffusers_on_the_scale_of_signed_images(scheduler):
    schedule = NoiseSchedule.from_scheduler(scheduler)
    torch.testing.assert_close(schedule.sigmas, 2 * scheduler.discrete_sigmas, rtol=1e-5, atol=0)
    # The pipeline feeds continuous times down to 1e-5, not to 0.
    torch.testing.assert_close(schedule.sigmas, 2 * scheduler.sigmas.flip(0), rtol=2e-4, atol=0)


@pytest.mark.parametrize("steps", [range(1000), [0, 250, 999]])
def test_the_posterior_is_that_of_conditioning_a_gaussian(steps):
    """Of x_{t-1}, known from x_0 with variance s'^2 and from x_t with s^2 - s'^2: precisions add."""
    schedule = EXPLODING.respaced(steps)
    sigmas = 0.02 * 5000 ** (torch.tensor(list(steps), dtype=torch.float64) / 999)
    before, step = sigmas[:-1] ** 2, sigmas[1:] ** 2 - sigmas[:-1] ** 2
    variance = 1 / (1 / before + 1 / step)
    torch.testing.assert_close(schedule.posterior_log_variance[1:].double().exp(), variance, rtol=1e-5, atol=0)
    torch.testing.assert_close(schedule.posterior_mean_coef1[1:].double(), variance / before, rtol=1e-5, atol=0)
    torch.testing.assert_close(schedule.posterior_mean_coef2[1:].double(), variance / step, rtol=1e-5, atol=0)
    torch.testing.assert_close(schedule.sigmas.double(), sigmas, rtol=1e-6, atol=0)
    assert (schedule.posterior_mean_coef1[0], schedule.posterior_mean_coef2[0]) == (1, 0)


def test_timesteps_match_between_schedules(schedule):
    paper = range(0, 451, 50)
    matched = match_timesteps(paper, EXPLODING, 256)
    assert matched[0] == 0
    assert len(set(matched)) == 10
    # Neighbouring sigmas are 1.0086 times each other.
    for ours, theirs in zip(matched[1:], paper[1:]):
        assert EXPLODING.sigmas[ours].item() == pytest.approx(schedule.sigmas[theirs].item(), rel=0.0044)
    assert match_timesteps(matched[1:], schedule, 256, EXPLODING) == pytest.approx(paper[1:], abs=2)
    assert score_network(size=32).augment_timesteps[-1] < 999


def test_sigma_to_timestep():
    t = EXPLODING.timestep_for_sigma(0.5)
    assert EXPLODING.sigmas[t - 1] < 0.5 <= EXPLODING.sigmas[t]
    with pytest.raises(ValueError, match="sigma must be at most 100, the schedule's last. Got 101"):
        EXPLODING.timestep_for_sigma(101)


class PredictsScore(Predicts):
    def forward(self, x_t, timesteps, labels=None):
        if self.kind != "score":
            return super().forward(x_t, timesteps, labels)
        return -self.oracle(x_t, timesteps) / EXPLODING.sigmas[timesteps].reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "score"])
def test_prediction_types_agree_with_the_oracle(x_t, kind):
    oracle = GaussianOracle(EXPLODING)
    network = ScoreNetwork(
        oracle if kind == "epsilon" else PredictsScore(oracle, kind), EXPLODING, prediction_type=kind
    )
    error = (network.pred_x0(x_t, TIMESTEPS, clip=False) - oracle.posterior_mean(x_t, TIMESTEPS)).abs()
    assert bool((error <= 1e-6 * (1 + EXPLODING.sigmas[TIMESTEPS]).reshape(-1, 1, 1, 1)).all())
    torch.testing.assert_close(network.eps(x_t, TIMESTEPS), oracle(x_t, TIMESTEPS), rtol=1e-5, atol=1e-4)


def test_a_network_of_unit_images_told_sigma_gives_the_score_of_signed_ones(x_t):
    network = score_network()
    assert network.schedule == EXPLODING
    variance = network.unet.unet.variance + EXPLODING.sigmas[TIMESTEPS].reshape(-1, 1, 1, 1) ** 2
    x = x_t.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((-((x - network.unet.unet.mean) ** 2) / (2 * variance)).sum(), x)
    torch.testing.assert_close(network.score(x_t, TIMESTEPS), gradient, rtol=1e-4, atol=1e-5)
    exact = network.unet.unet.posterior_mean(x_t, TIMESTEPS).float()
    torch.testing.assert_close(network.pred_x0(x_t, TIMESTEPS, clip=False), exact, rtol=0, atol=1e-4)


def test_diffaug_is_the_oracles_posterior_mean():
    network, batch = score_network(), contracts.images(8)
    augment = DiffAug(network, dtype=torch.float32)
    params = augment.make_params([batch])
    assert set(params["timesteps"].tolist()) <= set(network.augment_timesteps)
    x_t = diffuse(to_signed(batch), params["timesteps"], params["noise"], EXPLODING)
    exact = to_unit(network.unet.unet.posterior_mean(x_t, params["timesteps"]).clamp(-1, 1)).float()
    torch.testing.assert_close(augment.transform(batch, params), exact, rtol=0, atol=1e-5)


def test_the_ensembles_views_are_the_oracles():
    network, batch = score_network(), contracts.images(8)
    ensemble = DiffAugEnsemble(nn.Flatten(), network, timesteps=[0, 200, 400, 600], dtype=torch.float32)
    noise = ensemble.draw_noise(batch)
    views = ensemble.views(batch, noise)
    assert torch.equal(views[0], batch)
    for view, t, z in zip(views[1:], ensemble.view_timesteps[1:], noise):
        exact = to_unit(network.unet.unet.posterior_mean(to_signed(batch) + EXPLODING.sigmas[t] * z, torch.tensor([t])))
        torch.testing.assert_close(view, exact.clamp(0, 1).float(), rtol=0, atol=1e-5)


def test_smoothing_denoises_the_noisy_image_and_certifies_its_radius():
    """A linear classifier of denoised images votes with a known probability: its radius is sigma Phi^-1 of that."""
    image = torch.full((3, 8, 8), 0.5)
    smoothed = DenoisedSmoothing(
        nn.Flatten(), score_network(), 0.5, dtype=torch.float32, generator=torch.Generator().manual_seed(0)
    )
    noise = draw(2, 3, 8, 8)
    sigma = EXPLODING.sigmas[smoothed.timestep].item()
    assert 1 <= sigma < 1.01
    gain = 0.04 / (0.04 + sigma**2)
    denoised = to_unit(0.1 + gain * (to_signed(image + 0.5 * noise) - 0.1))
    torch.testing.assert_close(smoothed.denoise(image.expand(2, -1, -1, -1), noise), denoised, rtol=0, atol=1e-5)
    # The denoised mean pixel is normal; the threshold lies where class 1 wins 9 of 10 draws.
    threshold = to_unit(torch.tensor(0.1 - gain * 0.1)) - gain * 0.5 / 192**0.5 * NormalDist().inv_cdf(0.9)
    smoothed.classifier = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with torch.no_grad():
        smoothed.classifier[1].weight.copy_(torch.tensor([[-1 / 192], [1 / 192]]).expand(2, 192))
        smoothed.classifier[1].bias.copy_(torch.tensor([threshold, -threshold]))
    prediction, radius = smoothed.certify(image, n=2000)
    true = 0.5 * NormalDist().inv_cdf(0.9)
    assert prediction == 1
    assert 0.85 * true < radius < true


@pytest.mark.parametrize("timestep", [300, 600])
@pytest.mark.parametrize("product", [jacobian_vector_product, vector_jacobian_product])
def test_the_jacobian_is_the_posterior_covariance_over_sigma_squared(product, timestep):
    oracle = MixtureOracle(EXPLODING)
    x_t = (oracle.means[:2].mean(0).reshape(3, 2, 2) + 0.1 * EXPLODING.sigmas[timestep] * draw(3, 2, 2)).float()
    expected = oracle.posterior_covariance(x_t, timestep) / oracle.noise[timestep]
    jacobian = full_matrix(product, ScoreNetwork(oracle, EXPLODING), x_t, timestep)
    assert torch.allclose(jacobian.double(), expected, rtol=0, atol=1e-5)


def test_ddim_carries_noise_to_the_gaussian():
    """The flow of a Gaussian is linear: it keeps each pixel's standard score."""
    network = score_network()
    z = draw(3, 3, 8, 8)
    x_T = network.schedule.noise_scale[-1] * z
    standard = (x_T - 0.1) / (0.04 + 100**2) ** 0.5
    assert torch.allclose(sample(network, x_T, method="ddim"), 0.1 + 0.2 * standard, atol=0.01)


def test_ancestral_samples_have_the_gaussians_moments():
    network, steps = score_network(), space_timesteps(1000, 250)
    x_T = EXPLODING.noise_scale[-1] * draw(64, 3, 8, 8)
    x_0 = sample(network, x_T, steps, generator=torch.Generator().manual_seed(1))
    # Each step is linear in x_t, so its variance follows by hand.
    sigmas, variance = EXPLODING.sigmas.double()[list(steps)].tolist(), 100.0**2
    for i in reversed(range(250)):
        kept = (sigmas[i - 1] / sigmas[i]) ** 2 if i else 0.0
        slope = kept + (1 - kept) * 0.04 / (0.04 + sigmas[i] ** 2)
        variance = slope**2 * variance + kept * (1 - kept) * sigmas[i] ** 2
    # 12,288 pixels: standard errors of .002 and .0005.
    assert x_0.mean().item() == pytest.approx(0.1, abs=0.006)
    assert x_0.var().item() == pytest.approx(variance, abs=0.0015)
    assert variance == pytest.approx(0.04, abs=0.005)


def test_dda_without_guidance_is_the_same_walk_back():
    network, batch = score_network(), contracts.images(8)
    dda = DDA(network, guidance_scale=0.0, num_steps=20, start_timestep=500, dtype=torch.float32)
    *walked, start = dda.timesteps
    noise = draw(len(walked), 4, 3, 8, 8).abs()
    x_t = to_signed(batch) + EXPLODING.sigmas[start] * noise[0]
    expected = to_unit(sample(network, x_t, walked, noise=noise[1:])).clamp(0, 1)
    torch.testing.assert_close(dda.adapt(batch, noise), expected, rtol=0, atol=1e-5)


def test_a_step_of_diffusers_is_the_posterior_with_large_variance(scheduler):
    network = score_network()
    network.variance_type = "fixed_large"
    x_t, t = 0.1 + 0.2 * draw(1, 3, 8, 8) + EXPLODING.sigmas[400] * draw(1, 3, 8, 8, seed=1), torch.tensor([400])
    mean, log_variance = network.posterior(x_t, t)
    scheduler.set_timesteps(1000, sampling_eps=0.0)
    time, score = scheduler.timesteps[999 - 400], 2 * network.score(x_t, t)
    step = scheduler.step_pred(score, time, to_unit(x_t), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(to_unit(mean), step.prev_sample_mean, rtol=1e-4, atol=1e-5)
    noise = draw(1, 3, 8, 8, seed=3)
    expected = to_unit(mean + (log_variance / 2).exp() * noise)
    torch.testing.assert_close(expected, step.prev_sample, rtol=1e-4, atol=1e-5)


def test_bad_schedules():
    with pytest.raises(ValueError, match=r"betas must be a vector of values in \(0, inf\)"):
        NoiseSchedule(torch.tensor([1.0, 0.0]), variance_preserving=False)
    with pytest.raises(ValueError, match="sigma_max must be finite and above 1. Got inf"):
        NoiseSchedule.variance_exploding(1, math.inf)
