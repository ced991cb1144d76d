"""The loop from noise to images: against diffusers' schedulers, the network's own posterior, and a Gaussian's flow."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.score import NoiseSchedule, space_timesteps
from diffaug_transforms.score.functional import ReverseStep
from diffaug_transforms.score.sampling import sample


@pytest.fixture
def gaussian(oracle, schedule) -> ScoreNetwork:
    return ScoreNetwork(oracle, schedule)


@pytest.fixture
def x_t() -> torch.Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def draws(number: int, x_t: torch.Tensor, seed: int = 1) -> torch.Tensor:
    return torch.randn(number, *x_t.shape, generator=torch.Generator().manual_seed(seed))


def test_respaced_schedule_keeps_alphas_cumprod(schedule):
    steps = [0, 7, 500, 999]
    respaced = schedule.respaced(steps)
    assert torch.allclose(respaced.alphas_cumprod, schedule.alphas_cumprod[steps], rtol=1e-6, atol=0)
    assert torch.allclose(schedule.respaced(range(1000)).betas, schedule.betas, rtol=1e-6, atol=0)
    for wrong in ([5, 3], [3, 3]):
        with pytest.raises(ValueError, match="timesteps must ascend"):
            schedule.respaced(wrong)
    with pytest.raises(ValueError, match="Got 1000"):
        schedule.respaced([1000])


def test_ancestral_steps_follow_the_networks_posterior(network):
    """Over neighbouring timesteps nothing is respaced, so each step is the network's own posterior."""
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    noise = draws(3, x)
    expected = x
    for t, z in zip((3, 2, 1, 0), [*noise, torch.zeros_like(x)]):
        mean, log_variance = network.posterior(expected, torch.full((2,), t))
        expected = mean + (log_variance / 2).exp() * z
    assert torch.allclose(sample(network, x, range(4), noise=noise), expected, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_equals_diffusers(gaussian, x_t, eta):
    steps, noise = space_timesteps(1000, 5, "leading"), draws(5, x_t)
    scheduler = DDIMScheduler(1000, beta_schedule="linear")
    scheduler.set_timesteps(5)
    assert scheduler.timesteps.tolist() == list(reversed(steps))
    expected = x_t
    for t, z in zip(scheduler.timesteps, noise):
        eps = gaussian.eps(expected, torch.full((3,), int(t)))
        options = {"use_clipped_model_output": True, "variance_noise": z if t > 0 else torch.zeros_like(z)}
        expected = scheduler.step(eps, int(t), expected, eta=eta, **options).prev_sample
    got = sample(gaussian, x_t, steps, method="ddim", eta=eta, noise=noise)
    # diffusers keeps a remnant of noise, of variance 1 - alphas_cumprod[0] of its final step, out of its last step too.
    assert torch.allclose(got, expected, atol=1e-4)


def test_ancestral_equals_diffusers(gaussian, x_t):
    scheduler = DDPMScheduler(1000, beta_schedule="linear", variance_type="fixed_small")
    scheduler.set_timesteps(10)
    generator, expected = torch.Generator().manual_seed(4), x_t
    for t in scheduler.timesteps:
        eps = gaussian.eps(expected, torch.full((3,), int(t)))
        expected = scheduler.step(eps, int(t), expected, generator=generator).prev_sample
    got = sample(gaussian, x_t, space_timesteps(1000, 10, "leading"), generator=torch.Generator().manual_seed(4))
    assert torch.allclose(got, expected, atol=1e-4)


def test_ddim_carries_noise_to_the_gaussian(gaussian, oracle, x_t):
    """The flow of a Gaussian is linear: it keeps each pixel's standard score."""
    a, b = gaussian.schedule.signal_scale[-1], gaussian.schedule.noise_scale[-1]
    standard = (x_t - a * oracle.mean) / (a**2 * oracle.variance + b**2).sqrt()
    expected = oracle.mean + oracle.variance**0.5 * standard
    assert torch.allclose(sample(gaussian, x_t, method="ddim"), expected, atol=0.01)


def test_ancestral_samples_have_the_gaussians_moments(gaussian, oracle):
    steps = space_timesteps(1000, 250)
    x_T = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x_0 = sample(gaussian, x_T, steps, generator=torch.Generator().manual_seed(1))
    # Each step is linear in x_t, so its variance follows by hand: a little below the data's, as Ho et al. say (3.2).
    respaced, variance = gaussian.schedule.respaced(steps), 1.0
    for i in reversed(range(250)):
        a, b = respaced.signal_scale[i].item(), respaced.noise_scale[i].item()
        gain = a * oracle.variance / (a**2 * oracle.variance + b**2)
        slope = respaced.posterior_mean_coef1[i].item() * gain + respaced.posterior_mean_coef2[i].item()
        variance = slope**2 * variance + (respaced.posterior_log_variance[i].exp().item() if i else 0)
    # 12,288 pixels: standard errors of .002 and .0005.
    assert x_0.mean().item() == pytest.approx(oracle.mean, abs=0.006)
    assert x_0.var().item() == pytest.approx(variance, abs=0.0015)
    assert variance == pytest.approx(oracle.variance, abs=0.005)


def test_learned_variance_is_interpolated_on_the_respaced_schedule(schedule, oracle, x_t):
    class Learned(torch.nn.Module):
        config = oracle.config

        def forward(self, x, t, labels):
            return torch.cat([oracle(x, t), torch.ones_like(x)], dim=1)  # share 1: the variance is beta

    network, seen = ScoreNetwork(Learned(), schedule, variance_type="learned_range"), []

    def watch(x, timesteps, predict):
        seen.append(x)
        return predict(x)

    steps = [0, 100, 300]
    for scale in (0, 1):
        sample(network, x_t, steps, noise=scale * torch.ones(2, *x_t.shape), guide=watch)
    beta = schedule.respaced(steps).betas[2]
    assert torch.allclose(seen[4] - seen[1], beta.sqrt().expand_as(x_t), atol=1e-5)


def test_guide_sees_the_networks_timesteps_and_shifts_the_step(gaussian, x_t):
    seen = []

    def guide(x, timesteps, predict):
        seen.append(timesteps.tolist())
        step = predict(x)
        return ReverseStep(step.pred_x0 + 1, step.mean + 2, step.log_variance)

    steps = [0, 400]
    noise = draws(1, x_t)
    plain, guided = (sample(gaussian, x_t, steps[1:], guide=g) for g in (None, guide))
    assert torch.allclose(guided, plain + 2, atol=1e-5)
    by_ddim = [sample(gaussian, x_t, steps[1:], method="ddim", guide=g) for g in (None, guide)]
    assert torch.allclose(by_ddim[1], by_ddim[0] + 1, atol=1e-5)
    sample(gaussian, x_t, steps, guide=guide, noise=noise)
    assert seen == [[400] * 3, [400] * 3, [400] * 3, [0] * 3]


def test_labels_reach_the_network(conditional):
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    first, second = (sample(conditional, x, [0, 500], method="ddim", labels=torch.tensor([k, k])) for k in (0, 1))
    assert not torch.allclose(first, second)
    with pytest.raises(ValueError, match="needs labels"):
        sample(conditional, x, [0, 500])


def test_seeds_repeat_and_empty_batches_come_back(gaussian, x_t, network):
    one, two, other = (sample(gaussian, x_t, [0, 500], generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    for method in ("ancestral", "ddim"):
        assert sample(gaussian, x_t[:0], [0, 500], method=method).shape == (0, 3, 8, 8)
        assert sample(network, torch.zeros(0, 3, 16, 16), [0, 500], method=method).shape == (0, 3, 16, 16)


def test_progress_bar(gaussian, x_t, capsys):
    sample(gaussian, x_t, [0, 250, 500], progress=True)
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "euler"}, "method must be one of .* Got 'euler'"),
        ({"eta": 1.5}, r"eta must be in \[0, 1\]. Got 1.5"),
        ({"timesteps": []}, "timesteps must hold at least one timestep"),
        ({"timesteps": [0, 2.5]}, "timesteps must be integers. Got 2.5"),
        ({"eta": float("nan")}, r"eta must be in \[0, 1\]. Got nan"),
        ({"network": None}, "network must be a ScoreNetwork. Got None"),
        ({"x_t": torch.zeros(3, 8, 8)}, r"x_t must be \(B, 3, H, W\). Got shape \(3, 8, 8\)"),
        ({"x_t": [0.0]}, "x_t must be a floating point tensor .* Got"),
        ({"guide": 3.0}, "guide must be a function of x_t, timesteps and predict or None. Got 3.0"),
        ({"generator": 42}, "generator must be a torch.Generator or None. Got 42"),
        ({"progress": "yes"}, "progress must be True or False. Got 'yes'"),
        ({"timesteps": [3, 1]}, r"timesteps must ascend. Got \[3, 1\]"),
        ({"timesteps": [0, 1, 2], "noise": torch.zeros(1, 3, 3, 8, 8)}, "Got too few"),
        ({"timesteps": [0, 1], "noise": torch.zeros(1, 1, 3, 8, 8)}, r"Got one of shape \(1, 3, 8, 8\)"),
    ],
)
def test_bad_arguments(gaussian, x_t, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        sample(**{"network": gaussian, "x_t": x_t, **options})


def test_cosine_4000_schedule_respaces(oracle):
    schedule = NoiseSchedule.named("cosine", 4000)
    assert schedule.respaced(space_timesteps(4000, 250)).alphas_cumprod[-1] == schedule.alphas_cumprod[-1]
