"""EDM, consistency and flow matching: by the Gaussian oracle, and beside diffusers' own schedulers and pipelines."""

from __future__ import annotations

import json
import pickle
import warnings

import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    DiffusionPipeline,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor, nn

from diffaug_transforms import DiffAug, ScoreNetwork, load_score_network
from diffaug_transforms.robustness import DDA, DenoisedSmoothing, jacobian_vector_product, vector_jacobian_product
from diffaug_transforms.score import Denoiser, NoiseSchedule, diffuse, space_timesteps
from diffaug_transforms.score.denoisers import Preconditioned
from diffaug_transforms.score.sampling import sample
from diffaug_transforms.score.unet import build_unet
from tests import contracts
from tests.conftest import GaussianOracle, tiny_unet
from tests.contracts import draw

SCHEDULERS = {
    "edm": lambda: EDMEulerScheduler(),
    "edm, v": lambda: EDMEulerScheduler(prediction_type="v_prediction", sigma_data=0.7),
    "consistency": lambda: CMStochasticIterativeScheduler(),
    "flow": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
}
TIMESTEPS = torch.tensor([0, 50, 300, 925])


@pytest.fixture(params=SCHEDULERS)
def scheduler(request):
    return SCHEDULERS[request.param]()


@pytest.fixture
def network(scheduler) -> ScoreNetwork:
    return ScoreNetwork.from_diffusers(tiny_unet(), scheduler).requires_grad_(False).eval()


class TrainedOracle(GaussianOracle):
    """What each kind of U-Net would have learnt of Gaussian images, from c_in x and c_noise alone."""

    def __init__(self, scheduler) -> None:
        super().__init__(NoiseSchedule.named("linear"))
        self.kind, self.scheduler_config = type(scheduler).__name__, dict(scheduler.config)

    def forward(self, own: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        c, config = c_noise.double().reshape(-1, 1, 1, 1), self.scheduler_config
        if self.kind == "FlowMatchEulerDiscreteScheduler":
            s = c / config["num_train_timesteps"]
            x, sigma = own / (1 - s), s / (1 - s)
            return ((x - self.denoised(x, sigma)) / sigma - self.denoised(x, sigma)).float()  # noise - x_0
        sigma, data = (4 * c).exp() if self.kind.startswith("EDM") else (c / 250).exp(), config["sigma_data"]
        x = own * (sigma**2 + data**2).sqrt()
        shift = 0 if self.kind.startswith("EDM") else config["sigma_min"]
        c_skip = data**2 / ((sigma - shift) ** 2 + data**2)
        c_out = (sigma - shift) * data / (sigma**2 + data**2).sqrt()
        sign = -1 if config.get("prediction_type") == "v_prediction" else 1
        return (sign * (self.denoised(x, sigma) - c_skip * x) / c_out).float()

    def denoised(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.mean + self.variance / (self.variance + sigma**2) * (x - self.mean)


def test_the_oracle_is_exact(scheduler):
    oracle = TrainedOracle(scheduler)
    network = ScoreNetwork.from_diffusers(oracle, scheduler)
    assert isinstance(network.unet, Preconditioned)
    schedule = network.schedule
    x_t = diffuse(0.1 + 0.2 * draw(4, 3, 8, 8), TIMESTEPS, draw(4, 3, 8, 8, seed=1), schedule)
    exact = oracle.posterior_mean(x_t, TIMESTEPS)
    torch.testing.assert_close(network(x_t, TIMESTEPS).double(), exact.clamp(-1, 1), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        network.eps(x_t, TIMESTEPS), GaussianOracle.forward(oracle, x_t, TIMESTEPS), rtol=0, atol=1e-3
    )
    a, b = (s[TIMESTEPS].reshape(-1, 1, 1, 1) for s in (schedule.signal_scale, schedule.noise_scale))
    score = -(x_t - a * oracle.mean) / (a**2 * oracle.variance + b**2)
    assert (network.score(x_t, TIMESTEPS) - score).norm() < 1e-3 * score.norm()
    mean, log_variance = network.posterior(x_t, TIMESTEPS)
    assert mean.isfinite().all()
    assert torch.equal(log_variance[:, 0, 0, 0], schedule.posterior_log_variance[TIMESTEPS])


@pytest.mark.parametrize("method", ["ancestral", "ddim"])
def test_samples_are_those_of_a_network_that_predicts_noise(scheduler, method):
    oracle = TrainedOracle(scheduler)
    network = ScoreNetwork.from_diffusers(oracle, scheduler)
    steps = space_timesteps(len(network.schedule.timesteps), 20)
    x_t, noise = draw(2, 3, 8, 8), list(draw(20, 2, 3, 8, 8, seed=1))
    plain = ScoreNetwork(GaussianOracle(network.schedule), network.schedule)
    ours, theirs = (sample(one, x_t, steps, method=method, noise=noise) for one in (network, plain))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


def edm_denoised(scheduler: EDMEulerScheduler, unet: nn.Module, x: Tensor, sigma: Tensor) -> Tensor:
    output = unet(scheduler.precondition_inputs(x, sigma), scheduler.precondition_noise(sigma).reshape(-1)).sample
    return scheduler.precondition_outputs(x, output, sigma)


def consistency_denoised(
    scheduler: CMStochasticIterativeScheduler, unet: nn.Module, x: Tensor, sigma: Tensor
) -> Tensor:
    """What ``step`` gives with one timestep left, where it adds no noise."""
    t = torch.from_numpy(scheduler.sigma_to_t([sigma.item()])).float()
    scheduler.timesteps, scheduler.sigmas = t, torch.tensor([sigma.item(), 0.002])
    scheduler._step_index, scheduler.custom_timesteps = None, True
    output = unet(scheduler.scale_model_input(x, t[0]), t[0]).sample
    return scheduler.step(output, t[0], x).prev_sample


def flow_denoised(scheduler: FlowMatchEulerDiscreteScheduler, unet: nn.Module, x: Tensor, sigma: Tensor) -> Tensor:
    """One Euler step from s to 0."""
    s = sigma.item() / (1 + sigma.item())
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[s])
    output = unet(x * (1 - s), scheduler.timesteps[0]).sample
    return scheduler.step(output, scheduler.timesteps[0], x * (1 - s)).prev_sample


@torch.no_grad()
def test_the_denoised_image_is_that_of_diffusers(scheduler, network):
    denoised = {"EDM": edm_denoised, "CMS": consistency_denoised, "Flo": flow_denoised}[type(scheduler).__name__[:3]]
    for t in TIMESTEPS[:, None]:
        x_t = draw(1, 3, 16, 16)
        x = x_t / network.schedule.signal_scale[t]
        theirs = denoised(scheduler, network.unet.unet, x, network.schedule.sigmas[t].reshape(1, 1, 1, 1))
        ours = network.pred_x0(x_t, t, clip=isinstance(scheduler, CMStochasticIterativeScheduler))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


def test_a_folder_is_read_by_this_package_and_by_diffusers(scheduler, network, tmp_path):
    network.save_pretrained(tmp_path)
    again = load_score_network(tmp_path)
    x_t = draw(4, 3, 16, 16)
    assert torch.equal(again.eps(x_t, TIMESTEPS), network.eps(x_t, TIMESTEPS))
    assert again.schedule == network.schedule
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(pipeline.scheduler) is type(scheduler)
    assert pipeline.scheduler.config.get("sigma_data") == scheduler.config.get("sigma_data")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(num_inference_steps=2, output_type="np").images.shape == (1, 16, 16, 3)


@pytest.mark.parametrize("name", ["EDMDPMSolverMultistepScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_other_solvers_of_the_same_networks(tmp_path, name):
    kind = "edm" if name.startswith("EDM") else "flow"
    network = ScoreNetwork.from_diffusers(tiny_unet(), SCHEDULERS[kind]()).requires_grad_(False).eval()
    network.save_pretrained(tmp_path)
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": name}))
    x_t = draw(4, 3, 16, 16)
    assert torch.equal(load_score_network(tmp_path).eps(x_t, TIMESTEPS), network.eps(x_t, TIMESTEPS))


def test_the_configuration_of_openais_consistency_models():
    """openai/diffusers-cd_imagenet64_l2: ADM's 64x64 network without its learned variance, 296 M parameters."""
    config = {
        "sample_size": 64,
        "layers_per_block": 3,
        "num_class_embeds": 1000,
        "block_out_channels": [192, 384, 576, 768],
        "attention_head_dim": 64,
        "down_block_types": ["ResnetDownsampleBlock2D", *["AttnDownBlock2D"] * 3],
        "up_block_types": [*["AttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"],
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 32,
        "downsample_type": "resnet",
        "upsample_type": "resnet",
    }
    network = ScoreNetwork.from_diffusers(build_unet(config, "unet"), CMStochasticIterativeScheduler())
    assert sum(weight.numel() for weight in network.parameters()) == pytest.approx(296e6, rel=0.01)
    assert (network.image_size, network.num_classes, network.schedule.timesteps) == (64, 1000, range(930))


def test_a_conditional_consistency_model(tmp_path):
    """openai/diffusers-cd_imagenet64_l2 has classes, and no null class."""
    scheduler = CMStochasticIterativeScheduler()
    ScoreNetwork.from_diffusers(tiny_unet(num_class_embeds=5), scheduler).save_pretrained(tmp_path)
    augment = DiffAug(str(tmp_path), conditional=True, dtype=torch.float32)
    images, _ = augment(contracts.images(16), torch.tensor([0, 1, 4, 2]))
    assert images.shape == (4, 3, 16, 16)
    with pytest.raises(ValueError, match=r"this network needs labels in 0\.\.\.4"):
        DiffAug(str(tmp_path))(contracts.images(16))


def test_diffaug_keeps_its_contracts(network):
    def make() -> DiffAug:
        return DiffAug(network, dtype=torch.float32)

    contracts.check_type_shape_and_range(make, 16, torch.float32)
    contracts.check_seeds_repeat(make, 16)
    contracts.check_pickles_and_copies(make, 16)
    contracts.check_batched_equals_unbatched(make(), 16)
    contracts.check_draws_replay(make(), 16)


def test_coefficients_stay_float32(network):
    x_t, exact_table = draw(4, 3, 16, 16), network.unet.coefficients.clone()
    exact = network.pred_x0(x_t, TIMESTEPS)
    network.to(torch.bfloat16)
    assert network.dtype == torch.bfloat16
    assert network.unet.coefficients.dtype == torch.float32
    assert torch.equal(network.unet.coefficients, exact_table)
    assert (network.pred_x0(x_t, TIMESTEPS) - exact).norm() < 0.01 * exact.norm()
    # At t = 0 the image hardly changes, and is not rounded to bfloat16.
    assert (network.pred_x0(x_t, TIMESTEPS) - exact)[0].abs().max() < 5e-4
    assert not pickle.loads(pickle.dumps(network)).state_dict().keys() & {"unet.coefficients"}


@pytest.mark.usefixtures("fresh_compiler")
def test_it_compiles_exports_and_recomputes(network):
    images, t, noise = contracts.images(16), TIMESTEPS, draw(4, 3, 16, 16)
    expected = Denoiser(network, dtype=torch.float32)(images, t, noise)
    denoiser = Denoiser(network, dtype=torch.float32)
    compiled = torch.compile(denoiser, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images, t, noise), expected, rtol=0, atol=1e-4)
    exported = torch.export.export(Denoiser(network, dtype=torch.float32), (images, t, noise))
    torch.testing.assert_close(exported.module()(images, t, noise), expected, rtol=0, atol=1e-4)
    images = images.requires_grad_()
    recomputing = Denoiser(network, dtype=torch.float32, differentiable=True, checkpointing=True)
    recomputing(images, t, noise).sum().backward()
    assert images.grad.isfinite().all()


def test_gradients(network):
    x_t, v, w = (draw(2, 3, 16, 16, seed=seed) for seed in range(3))
    t = torch.tensor([300, 600])
    forward, backward = jacobian_vector_product(network, x_t, t, v), vector_jacobian_product(network, x_t, t, w)
    assert torch.allclose((w * forward).sum((1, 2, 3)), (backward * v).sum((1, 2, 3)), rtol=1e-3, atol=1e-3)
    adapted = DDA(network, num_steps=10, start_timestep=333, dtype=torch.float32)(contracts.images(16, batch=2))
    assert adapted.shape == (2, 3, 16, 16)


def test_timesteps_beyond_the_schedulers_sigmas_are_refused():
    """EDM's sigma_max is 80; timestep 930 of the linear schedule has 80.6."""
    network = ScoreNetwork.from_diffusers(tiny_unet(), EDMEulerScheduler())
    assert network.schedule.timesteps == range(930)
    with pytest.raises(
        ValueError,
        match=r"in 0\.\.\.929 for this network. Got 930: its sigmas are 0.01\.\.\.79\..*, and t = 930 has 80\.",
    ):
        network(draw(1, 3, 16, 16), torch.tensor([930]))
    small = ScoreNetwork.from_diffusers(tiny_unet(), EDMEulerScheduler(sigma_min=0.3, sigma_max=2.0))
    first, last = small.schedule.timesteps[0], small.schedule.timesteps[-1]
    assert small.schedule.sigmas[first - 1] < 0.3 <= small.schedule.sigmas[first]
    with pytest.raises(ValueError, match=rf"timesteps must be in {first}\.\.\.{last} for this network. Got 0"):
        DDA(small, start_timestep=200)(contracts.images(16, batch=1))
    with pytest.raises(ValueError, match="sigma must be at least 0.15.*, half of the network's smallest. Got 0.1"):
        DenoisedSmoothing(nn.Identity(), small, sigma=0.1)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_embedding_type": "fourier"}, "time_embedding_type must be 'positional' with .*Got 'fourier'"),
        ({"out_channels": 6}, "out_channels must be in_channels, 3, with .*Got 6"),
    ],
)
def test_unets_that_do_not_fit(name, change, message):
    unet = tiny_unet()
    unet.register_to_config(**change)
    with pytest.raises(ValueError, match=message):
        ScoreNetwork.from_diffusers(unet, SCHEDULERS[name]())


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("edm", {"sigma_min": 90}, "sigma_min must be below sigma_max, 80.0. Got 90"),
        ("edm", {"sigma_data": 0}, "sigma_data must be a number in .* Got 0"),
        ("edm", {"sigma_data": "0.5"}, "sigma_data must be a number in .* Got '0.5'"),
        (
            "edm",
            {"prediction_type": "sample"},
            "prediction_type must be one of 'epsilon', 'v_prediction'. Got 'sample'",
        ),
        ("consistency", {"sigma_max": 1e-9}, "sigma_min must be below sigma_max"),
        (
            "consistency",
            {"sigma_min": 1000, "sigma_max": 2000},
            r"sigma_range must hold a sigma of .* Got \(1000, 2000\)",
        ),
        ("flow", {"num_train_timesteps": 0}, r"num_train_timesteps must be an integer in 1\.\.\.100000. Got 0"),
        ("flow", {"invert_sigmas": True}, "invert_sigmas must be one of False. Got True"),
    ],
)
def test_bad_scheduler_configurations(tmp_path, name, changes, message):
    ScoreNetwork.from_diffusers(tiny_unet(), SCHEDULERS[name]()).save_pretrained(tmp_path)
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=message):
        load_score_network(tmp_path)
