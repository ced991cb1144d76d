import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from diffaug_transforms.score import NoiseSchedule, match_timesteps, space_timesteps


def test_linear_betas_by_hand():
    schedule = NoiseSchedule.named("linear", 1000)
    assert schedule.betas[0].item() == pytest.approx(1e-4)
    assert schedule.betas[-1].item() == pytest.approx(0.02)
    assert schedule.alphas_cumprod[1].item() == pytest.approx((1 - 1e-4) * (1 - 1e-4 - 0.0199 / 999))
    # Fewer steps take larger ones: 1000 / T times the betas.
    assert NoiseSchedule.named("linear", 500).betas[0].item() == pytest.approx(2e-4)


def test_cosine_betas_by_hand():
    schedule = NoiseSchedule.named("cosine", 4000)
    exact = math.cos((0.5 + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert schedule.alphas_cumprod[1999].item() == pytest.approx(exact, rel=1e-6)
    assert schedule.betas.max().item() == pytest.approx(0.999)


def test_posterior_variance_by_hand():
    schedule = NoiseSchedule(torch.tensor([0.1, 0.2, 0.3]))
    # beta_1 (1 - abar_0) / (1 - abar_1) = .2 * .1 / (1 - .9 * .8)
    second = 0.2 * 0.1 / 0.28
    assert schedule.posterior_log_variance[1].exp().item() == pytest.approx(second)
    assert schedule.posterior_log_variance[0].exp().item() == pytest.approx(second)
    large = schedule.fixed_large_log_variance.exp().tolist()
    assert large == pytest.approx([second, 0.2, 0.3])


@pytest.mark.parametrize(
    ("name", "steps", "expected"), [("linear", 1000, (145, 259, 396)), ("cosine", 4000, (1158, 1984, 2809))]
)
def test_timesteps_of_denoised_smoothing(name, steps, expected):
    schedule = NoiseSchedule.named(name, steps)
    assert tuple(schedule.timestep_for_sigma(2 * sigma) for sigma in (0.25, 0.5, 1.0)) == expected


def test_sigma_beyond_the_schedule_is_refused(schedule):
    with pytest.raises(ValueError, match=r"sigma must be at most 157.*Got 1000"):
        schedule.timestep_for_sigma(1000.0)


def test_match_timesteps_to_32_pixels(schedule):
    assert match_timesteps(range(0, 451, 50), schedule, 32) == (0, 3, 9, 16, 23, 33, 44, 57, 74, 96)
    assert match_timesteps([999], schedule, 32) == (766,)


def test_match_timesteps_at_the_reference_size_changes_nothing(schedule):
    assert match_timesteps(range(1000), schedule, 256) == tuple(range(1000))


def test_match_timesteps_ends_at_the_last(schedule):
    assert match_timesteps([999], schedule, 512) == (999,)
    assert match_timesteps([], schedule, 32) == ()


def test_match_timesteps_over_schedules_matches_sigma(schedule):
    cosine = NoiseSchedule.named("cosine", 4000)
    (t,) = match_timesteps([500], cosine, 256)
    assert cosine.sigmas[t].item() == pytest.approx(schedule.sigmas[500].item(), rel=1e-3)


def test_bad_schedules_are_refused(schedule):
    with pytest.raises(ValueError, match="noise schedule must be one of linear, cosine. Got 'quadratic'"):
        NoiseSchedule.named("quadratic")
    with pytest.raises(ValueError, match="betas must be"):
        NoiseSchedule(torch.tensor([0.1, 1.5]))
    with pytest.raises(ValueError, match=r"timesteps must be in 0\.\.\.999 for this network. Got 1000"):
        schedule.check_timesteps([3, 1000])


LINEAR = NoiseSchedule.named("linear")
BAD_CALLS = [
    (lambda: NoiseSchedule([0.1, math.nan]), "betas must be a vector of values in (0, 1)"),
    (lambda: NoiseSchedule(None), "betas must be a vector of numbers. Got None"),
    (lambda: NoiseSchedule(["a"]), "betas must be a vector of numbers. Got ['a']"),
    (lambda: NoiseSchedule([0.1], variance_preserving=1), "variance_preserving must be True or False. Got 1"),
    (lambda: NoiseSchedule.named(None), "noise schedule must be one of linear, cosine. Got None"),
    (lambda: NoiseSchedule.named("linear", 20), "num_timesteps must be at least 21. Got 20"),
    (lambda: NoiseSchedule.named("cosine", 10.0), "num_timesteps must be an integer. Got 10.0"),
    (lambda: NoiseSchedule.variance_exploding(math.nan, 1), "sigma_min must be finite and above 0. Got nan"),
    (lambda: NoiseSchedule.variance_exploding(2, 1), "sigma_max must be finite and above 2. Got 1"),
    (lambda: NoiseSchedule.variance_exploding(1, 2, 1), "num_timesteps must be at least 2. Got 1"),
    (lambda: LINEAR.timestep_for_sigma(math.nan), "sigma must be at least 0. Got nan"),
    (lambda: LINEAR.respaced([0, 0.5]), "timesteps must be integers. Got 0.5"),
    (lambda: match_timesteps([0, "5"], LINEAR, 32), "timesteps must be integers. Got '5'"),
    (lambda: match_timesteps([5], LINEAR, 0), "image_size must be at least 1. Got 0"),
    (lambda: match_timesteps([5], "linear", 32), "schedule must be a NoiseSchedule. Got 'linear'"),
    (lambda: space_timesteps(1000, 10.0), "num_steps must be an integer. Got 10.0"),
    (lambda: space_timesteps(0, 1), "num_timesteps must be at least 1. Got 0"),
    (lambda: space_timesteps(10, 5, None), "timestep_spacing must be one of linspace, leading. Got None"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_bad_arguments(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert message in str(caught.value)


def test_tables_stay_float32():
    schedule = NoiseSchedule.named("linear").to("cpu")
    tables = [table for table in vars(schedule).values() if isinstance(table, torch.Tensor)]
    assert {table.dtype for table in tables} == {torch.float32}


@pytest.mark.parametrize(("ours", "theirs"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_diffusers_schedules_are_the_same(ours, theirs):
    scheduler = DDPMScheduler(1000, beta_schedule=theirs)
    assert NoiseSchedule.from_scheduler(scheduler) == NoiseSchedule.named(ours, 1000)
    torch.testing.assert_close(scheduler.alphas_cumprod, NoiseSchedule.named(ours).alphas_cumprod, rtol=1e-4, atol=0)


def test_other_schedules_are_taken_from_their_betas():
    scheduler = DDPMScheduler(1000, beta_schedule="scaled_linear", beta_start=0.001, beta_end=0.012)
    torch.testing.assert_close(NoiseSchedule.from_scheduler(scheduler).betas, scheduler.betas, rtol=1e-6, atol=0)


def test_spacing_linspace():
    steps = space_timesteps(1000, 100)
    assert (steps[0], steps[1], steps[50], steps[-1]) == (0, 10, 505, 999)
    assert space_timesteps(1000, 1000) == tuple(range(1000))
    assert space_timesteps(4000, 3) == (0, 2000, 3999)  # 1999.5 rounds to even, as the official code's round does
    assert space_timesteps(1000, 21)[10] == 499  # the official code adds strides up, and 499.4999... rounds down
    assert space_timesteps(10, np.int64(2)) == (0, 9)
    assert space_timesteps(1, 1) == (0,)


def test_spacing_leading():
    assert space_timesteps(1000, 25, "leading") == tuple(range(0, 1000, 40))
    assert space_timesteps(1000, 30, "leading") == tuple(range(0, 1000, 34))
    with pytest.raises(ValueError, match="equal stride over 1000. Got 999"):
        space_timesteps(1000, 999, "leading")


@pytest.mark.parametrize("spacing", ["linspace", "leading"])
@pytest.mark.parametrize("number", [0, 1, 11])
def test_bad_spacing(spacing, number):
    with pytest.raises(ValueError, match=f"num_steps must be in 2...10. Got {number}"):
        space_timesteps(10, number, spacing)
    with pytest.raises(ValueError, match="timestep_spacing must be one of .* Got 'trailing'"):
        space_timesteps(10, 5, "trailing")


def test_old_names_warn(schedule):
    with pytest.warns(DeprecationWarning, match="posterior_x_0 is now posterior_mean_coef1"):
        assert torch.equal(schedule.posterior_x_0, schedule.posterior_mean_coef1)
    with pytest.warns(DeprecationWarning, match="variance_preserving, its opposite"):
        assert schedule.exploding is False
    with pytest.warns(DeprecationWarning, match="variance_preserving=, its opposite"):
        assert not NoiseSchedule(torch.tensor([1.0, 2.0]), exploding=True).variance_preserving
