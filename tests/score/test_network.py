from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.score import NoiseSchedule, diffuse
from tests.conftest import GaussianOracle, tiny_unet

TIMESTEPS = torch.tensor([0, 10, 500, 999])


class Predicts(torch.nn.Module):
    """An oracle's knowledge as another prediction type, by the types' definitions."""

    def __init__(self, oracle: GaussianOracle, kind: str):
        super().__init__()
        self.oracle, self.kind, self.config = oracle, kind, oracle.config

    def forward(self, x_t, timesteps, labels=None):
        a = self.oracle.schedule.signal_scale[timesteps].reshape(-1, 1, 1, 1)
        b = self.oracle.schedule.noise_scale[timesteps].reshape(-1, 1, 1, 1)
        x_0 = self.oracle.posterior_mean(x_t, timesteps).float()
        return x_0 if self.kind == "sample" else a * self.oracle(x_t, timesteps) - b * x_0


@pytest.fixture
def x_t(schedule):
    generator = torch.Generator().manual_seed(0)
    x_0 = 0.2 * torch.randn(4, 3, 8, 8, generator=generator)
    return diffuse(x_0, TIMESTEPS, torch.randn(x_0.shape, generator=generator), schedule)


def test_the_schedule_stays_on_the_device_of_the_weights(schedule):
    network = ScoreNetwork(tiny_unet(), schedule).to("meta")
    for change in ({"memory_format": torch.channels_last}, {"dtype": torch.float16}):
        network.to(**change)
        assert {network.schedule.betas.device.type, next(network.parameters()).device.type} == {"meta"}


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_prediction_types_agree_with_the_oracle(oracle, schedule, x_t, kind):
    unet = oracle if kind == "epsilon" else Predicts(oracle, kind)
    network = ScoreNetwork(unet, schedule, prediction_type=kind)
    exact = oracle.posterior_mean(x_t, TIMESTEPS).float()
    # Where the prediction is noise, float32 rounding is divided by sqrt(alphas_cumprod).
    tolerance = 1e-6 * (1 + schedule.sigmas[TIMESTEPS]).reshape(-1, 1, 1, 1) if kind == "epsilon" else 1e-6
    assert bool(((network.pred_x0(x_t, TIMESTEPS, clip=False) - exact).abs() <= tolerance).all())
    torch.testing.assert_close(network.eps(x_t, TIMESTEPS)[1:], oracle(x_t, TIMESTEPS)[1:], rtol=0, atol=1e-4)


def test_score_is_the_gradient_of_the_log_density(oracle, schedule, x_t):
    network = ScoreNetwork(oracle, schedule)
    a, b = schedule.signal_scale[TIMESTEPS].reshape(-1, 1, 1, 1), schedule.noise_scale[TIMESTEPS].reshape(-1, 1, 1, 1)
    variance = a**2 * oracle.variance + b**2
    variable = x_t.clone().requires_grad_()
    log_density = -((variable - a * oracle.mean) ** 2 / (2 * variance)).sum()
    (gradient,) = torch.autograd.grad(log_density, variable)
    torch.testing.assert_close(network.score(x_t, TIMESTEPS), gradient, rtol=1e-5, atol=1e-5)


def test_pred_x0_is_clipped_unless_told(schedule):
    network = ScoreNetwork(GaussianOracle(schedule, mean=3.0), schedule)
    x_t = torch.zeros(1, 3, 8, 8)
    assert network.pred_x0(x_t, torch.tensor([500])).max() == 1
    assert network.pred_x0(x_t, torch.tensor([500]), clip=False).max() > 2


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_fixed_posterior_equals_diffusers(network, schedule, variance_type):
    network = ScoreNetwork(network.unet, schedule, variance_type=variance_type)
    scheduler = DDPMScheduler(1000, variance_type=variance_type)
    x_t = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([300])
    mean, log_variance = network.posterior(x_t, t)
    generator = torch.Generator().manual_seed(1)
    expected = scheduler.step(network.eps(x_t, t), 300, x_t, generator=generator).prev_sample
    noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mean + (log_variance / 2).exp() * noise, expected, rtol=1e-4, atol=1e-5)


def test_learned_variance_lies_between_its_ends(schedule):
    network = ScoreNetwork(tiny_unet(learned_variance=True), schedule, variance_type="learned_range")
    x_t, t = torch.randn(2, 3, 16, 16), torch.tensor([10, 500])
    output = network.unet(x_t, t).sample
    share = (output[:, 3:] + 1) / 2
    low = schedule.posterior_log_variance[t].reshape(-1, 1, 1, 1)
    high = schedule.betas[t].log().reshape(-1, 1, 1, 1)
    torch.testing.assert_close(network.posterior(x_t, t)[1], low + share * (high - low), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network.eps(x_t, t), output[:, :3], rtol=1e-4, atol=1e-5)


def test_labels_reach_the_network(conditional, null_conditional):
    x_t, t = torch.randn(2, 3, 16, 16), torch.tensor([100, 200])
    labels = torch.tensor([0, 4])
    assert not torch.allclose(conditional.eps(x_t, t, labels), conditional.eps(x_t, t, labels.flip(0)))
    null = null_conditional.unet(x_t, t, torch.tensor([5, 5])).sample
    torch.testing.assert_close(null_conditional.eps(x_t, t), null, rtol=1e-4, atol=1e-5)
    assert null_conditional.num_classes == conditional.num_classes == 5


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 2.5])
def test_guidance_scale_mixes_the_two_scores(null_conditional, weight):
    x_t, t, labels = torch.randn(2, 3, 16, 16), torch.tensor([100, 200]), torch.tensor([1, 2])
    mixed = ScoreNetwork(null_conditional.unet, null_conditional.schedule, null_class=5, guidance_scale=weight)
    expected = (1 - weight) * null_conditional.score(x_t, t) + weight * null_conditional.score(x_t, t, labels)
    torch.testing.assert_close(mixed.score(x_t, t, labels), expected, rtol=1e-3, atol=1e-4)


def test_labels_are_checked(conditional, null_conditional):
    x_t, t = torch.randn(1, 3, 16, 16), torch.tensor([100])
    with pytest.raises(ValueError, match=r"needs labels in 0\.\.\.4: it has no null class"):
        conditional.eps(x_t, t)
    for network in (conditional, null_conditional):
        with pytest.raises(ValueError, match=r"labels must be in 0\.\.\.4. Got 5"):
            network.eps(x_t, t, torch.tensor([5]))


@pytest.mark.parametrize("t", [-1, 1000])
def test_timesteps_are_checked(network, t):
    with pytest.raises(ValueError, match=rf"timesteps must be in 0\.\.\.999 for this network. Got {t}"):
        network.eps(torch.randn(1, 3, 16, 16), torch.tensor([t]))


def test_the_unet_stays_as_it_is(schedule):
    unet = tiny_unet().train()
    state = {name: value.clone() for name, value in unet.state_dict().items()}
    hooks = [len(module._forward_pre_hooks) for module in unet.modules()]
    network = ScoreNetwork(unet, schedule)
    network(torch.randn(1, 3, 16, 16), torch.tensor([5]))
    assert unet.training
    assert all(parameter.requires_grad for parameter in unet.parameters())
    assert all(torch.equal(value, state[name]) for name, value in unet.state_dict().items())
    assert [len(module._forward_pre_hooks) for module in unet.modules()] == hooks


def test_calling_it_gives_the_denoised_image(network):
    x_t, t = torch.randn(2, 3, 16, 16), torch.tensor([5, 500])
    assert torch.equal(network(x_t, t), network.pred_x0(x_t, t))


def test_an_outer_autocast_changes_nothing(network):
    x_t, t = torch.randn(2, 3, 16, 16), torch.tensor([5, 500])
    with torch.no_grad():
        plain = network(x_t, t)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(network(x_t, t), plain)


def test_old_names_warn(null_conditional):
    with pytest.warns(DeprecationWarning, match="label_weight is now guidance_scale"):
        null_conditional.label_weight = 2.0
    assert null_conditional.guidance_scale == 2
    with pytest.warns(DeprecationWarning, match="label_weight=\\) is now guidance_scale="):
        again = ScoreNetwork(null_conditional.unet, null_conditional.schedule, null_class=5, label_weight=0.5)
    assert again.guidance_scale == 0.5


def test_casting_leaves_the_schedule_in_float32(network):
    network.to(torch.bfloat16)
    assert network.dtype == torch.bfloat16
    assert network.schedule.alphas_cumprod.dtype == torch.float32
    assert network.eps(torch.randn(1, 3, 16, 16), torch.tensor([5])).dtype == torch.float32


def test_constructor_errors(schedule):
    for arguments, message in [
        ({"prediction_type": "flow"}, "prediction_type must be one of .* Got 'flow'"),
        ({"variance_type": "learned"}, "variance_type must be one of .* Got 'learned'"),
        ({"null_class": 3}, "null_class must be the last of the network's 6 labels. Got 3"),
        ({"guidance_scale": 0.5}, "needs a network with a null class. Got 0.5"),
        ({"guidance_scale": float("nan"), "null_class": 5}, "guidance_scale must be finite. Got nan"),
        ({"null_class": 5.0}, "null_class must be an integer. Got 5.0"),
        ({"schedule": "linear"}, "schedule must be a NoiseSchedule. Got 'linear'"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            ScoreNetwork(**{"unet": tiny_unet(num_class_embeds=6), "schedule": schedule, **arguments})


def test_own_timesteps_are_the_papers_at_256_pixels(schedule):
    network = ScoreNetwork(GaussianOracle(schedule, size=256), schedule)
    assert network.augment_timesteps == tuple(range(1000))
    assert network.ensemble_timesteps == (0, 50, 100, 150, 200, 250, 300, 350, 400, 450)


def test_another_schedules_timesteps_lie_in_it():
    schedule = NoiseSchedule.named("cosine", 4000)
    network = ScoreNetwork(GaussianOracle(schedule, size=64), schedule)
    assert max(network.augment_timesteps) < 4000
    assert network.ensemble_timesteps[0] == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "must have a config with in_channels and sample_size.*Got a Conv2d without in_channels and sample_size"),
        ({"in_channels": 3}, "Got a Conv2d without sample_size"),
        ({"in_channels": 3, "sample_size": 0}, "sample_size must be at least 1. Got 0"),
        ({"in_channels": "3", "sample_size": 8}, "in_channels must be an integer. Got '3'"),
        ({"in_channels": 3, "sample_size": 8, "out_channels": 1}, "out_channels must be in_channels, 3, or .* Got 1"),
        ({"in_channels": 3, "sample_size": 8, "class_embed_type": "identity"}, "class_embed_type must be None"),
    ],
)
def test_a_module_of_ones_own_is_told_what_it_needs(schedule, config, message):
    module = torch.nn.Conv2d(3, 3, 1)
    if config is not None:
        module.config = SimpleNamespace(**config)
    with pytest.raises((TypeError, ValueError), match=message):
        ScoreNetwork(module, schedule)


X_T, STEPS = torch.zeros(2, 3, 16, 16), torch.tensor([5, 5])
METHODS = ("pred_x0", "eps", "score", "posterior", "forward")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((X_T, 5), r"timesteps must be an int64 tensor \(B,\), such as torch.tensor\(\[500\]\). Got 5"),
        ((X_T, [5, 5]), r"timesteps must be an int64 tensor .* Got \[5, 5\]"),
        ((X_T, STEPS.float()), "timesteps must be an int64 tensor .* Got torch.float32"),
        ((X_T, STEPS[:1]), r"timesteps must be one per image, \(2,\). Got shape \(1,\)"),
        ((X_T, STEPS[0]), r"timesteps must be one per image, \(2,\). Got shape \(\)"),
        ((X_T, STEPS - 9), "timesteps must be in 0...999 for this network. Got -4"),
        ((X_T[0], STEPS), r"x_t must be \(B, 3, H, W\). Got shape \(3, 16, 16\)"),
        ((X_T[:, :1], STEPS), r"x_t must be \(B, 3, H, W\). Got shape \(2, 1, 16, 16\)"),
        ((X_T[..., :15], STEPS), "divisible by 2. Got shape .*: Denoiser pads images"),
        ((X_T[..., :0, :], STEPS), r"H and W above 0 .* Got shape \(2, 3, 0, 16\)"),
        ((X_T.byte(), STEPS), "x_t must be a floating point tensor .* Got torch.uint8"),
        ((X_T.to(torch.float8_e4m3fn), STEPS), "x_t must be a floating point tensor .* Got torch.float8_e4m3fn"),
        ((X_T.tolist(), STEPS), "x_t must be a floating point tensor"),
        ((X_T, STEPS, torch.tensor([1])), r"labels must be one per image, \(2,\). Got shape \(1,\)"),
        ((X_T, STEPS, torch.tensor([0.0, 1.0])), "labels must be an int64 tensor .* Got torch.float32"),
        ((X_T, STEPS, [0, 1]), r"labels must be an int64 tensor .* Got \[0, 1\]"),
        ((X_T, STEPS, torch.tensor([0, 5])), "labels must be in 0...4. Got 5"),
    ],
    ids=range(17),
)
def test_bad_inputs(conditional, method, inputs, message):
    with pytest.raises((TypeError, ValueError), match=message):
        getattr(conditional, method)(*(inputs if len(inputs) == 3 else (*inputs, STEPS % 5)))


@pytest.mark.parametrize("method", METHODS)
def test_empty_batches_and_other_dtypes_give_float32(network, method):
    def answer(x_t, timesteps):
        result = getattr(network, method)(x_t, timesteps)
        return result if isinstance(result, tuple) else (result,)

    for part in answer(X_T[:0], STEPS[:0]):
        assert (part.shape, part.dtype) == ((0, 3, 16, 16), torch.float32)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        for got, expected in zip(answer(X_T.to(dtype), STEPS.int()), answer(X_T, STEPS)):
            assert torch.equal(got, expected)
