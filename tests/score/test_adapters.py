"""NCSN++ as diffusers has it: a tiny random one against diffusers' own arithmetic, from and to its folders."""

from __future__ import annotations

import json
import math
import warnings

import pytest
import torch
from diffusers import DiffusionPipeline, ScoreSdeVeScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

from diffaug_transforms import DiffAug, ScoreNetwork, load_score_network
from diffaug_transforms.robustness import DDA, jacobian_vector_product, vector_jacobian_product
from diffaug_transforms.score import to_signed, to_unit
from diffaug_transforms.score.adapters import NCSNpp
from tests import contracts
from tests.exploding_oracle import EXPLODING, draw

SIZE = 16
X_T, T = draw(2, 3, SIZE, SIZE), torch.tensor([5, 800])


def tiny_ncsnpp() -> UNet2DModel:
    """NCSN++'s blocks: Fourier embedding of log sigma, FIR resampling, input and output skips, attention."""
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=SIZE,
        block_out_channels=(32, 32),
        layers_per_block=1,
        center_input_sample=True,
        time_embedding_type="fourier",
        norm_eps=1e-6,
        norm_num_groups=None,
        mid_block_scale_factor=math.sqrt(2),
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"),
    ).eval()


@pytest.fixture
def scheduler() -> ScoreSdeVeScheduler:
    return ScoreSdeVeScheduler(1000, sigma_min=0.01, sigma_max=50)


@pytest.fixture
def ncsnpp(scheduler) -> ScoreNetwork:
    return ScoreNetwork.from_diffusers(tiny_ncsnpp(), scheduler)


def test_the_networks_output_is_the_pipelines(ncsnpp, scheduler):
    """``ScoreSdeVePipeline`` calls ``unet(sample, sigma).sample`` on [0, 1] images and takes it for the score."""
    x_t, t = draw(3, 3, SIZE, SIZE), torch.tensor([0, 400, 999])
    sigma = ncsnpp.schedule.sigmas[t] / 2
    torch.testing.assert_close(sigma, scheduler.discrete_sigmas[t], rtol=1e-5, atol=0)
    own = to_unit(x_t).to(memory_format=torch.channels_last)
    score = ncsnpp.unet.unet(own, sigma).sample
    assert torch.equal(ncsnpp.predict(x_t, t)[0], score / 2)
    eps = -sigma.reshape(-1, 1, 1, 1) * score
    torch.testing.assert_close(ncsnpp.eps(x_t, t), eps, rtol=1e-4, atol=1e-5)
    assert eps.std() > 0.01


def test_the_frequencies_of_the_embedding_survive_casting(ncsnpp):
    x_t, t = to_signed(contracts.images(SIZE)), torch.tensor([10, 300, 700, 990])
    exact, frequencies = ncsnpp.eps(x_t, t), ncsnpp.unet.unet.time_proj.weight.clone()
    ncsnpp.to(torch.bfloat16)
    assert ncsnpp.dtype == torch.bfloat16
    assert torch.equal(ncsnpp.unet.unet.time_proj.weight, frequencies)
    assert (ncsnpp.eps(x_t, t) - exact).norm() < 0.03 * exact.norm()
    ncsnpp.unet.unet.time_proj.weight.data = frequencies.bfloat16().float()
    assert (ncsnpp.eps(x_t, t) - exact).norm() > 0.03 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_diffaug_keeps_its_contracts(ncsnpp, tmp_path, dtype):
    """Pickling takes a network from a folder: U-Nets as diffusers builds them have lambdas."""
    ncsnpp.save_pretrained(tmp_path)
    network = load_score_network(tmp_path)
    torch.testing.assert_close(network.eps(X_T, T), ncsnpp.eps(X_T, T))

    def make() -> DiffAug:
        return DiffAug(network, dtype=torch.float32)

    contracts.check_type_shape_and_range(make, SIZE, dtype)
    contracts.check_seeds_repeat(make, SIZE)
    contracts.check_pickles_and_copies(make, SIZE)
    contracts.check_batched_equals_unbatched(make(), SIZE)
    contracts.check_draws_replay(make(), SIZE)


def test_gradients_pass_ncsnpps_blocks(ncsnpp):
    """Forward and reverse mode agree, <w, J v> = <J^T w, v>; DDA walks back with its guide."""
    x_t, v, w = (draw(2, 3, SIZE, SIZE, seed=seed) for seed in range(3))
    t = torch.tensor([300, 600])
    forward, backward = jacobian_vector_product(ncsnpp, x_t, t, v), vector_jacobian_product(ncsnpp, x_t, t, w)
    assert torch.allclose((w * forward).sum((1, 2, 3)), (backward * v).sum((1, 2, 3)), rtol=1e-3, atol=1e-3)
    batch = contracts.images(SIZE)
    noise = draw(3, 4, 3, SIZE, SIZE)
    guided, free = (
        DDA(ncsnpp, num_steps=10, start_timestep=333, guidance_scale=scale, dtype=torch.float32).adapt(batch, noise)
        for scale in (6.0, 0.0)
    )
    assert guided.isfinite().all()
    assert not torch.allclose(guided, free)


def test_round_trip_and_diffusers_pipeline(ncsnpp, tmp_path):
    ncsnpp.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())["sigma_max"] == 50
    again = load_score_network(tmp_path)
    assert again.schedule == ncsnpp.schedule
    assert torch.equal(again.eps(X_T, T), ncsnpp.eps(X_T, T))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(pipeline).__name__ == "ScoreSdeVePipeline"
    assert pipeline.scheduler.config.sigma_min == 0.01
    score = pipeline.unet(to_unit(X_T), pipeline.scheduler.discrete_sigmas[T]).sample
    torch.testing.assert_close(again.score(X_T, T), score / 2, rtol=1e-3, atol=1e-3 * score.abs().max().item())


def test_round_trip_of_what_diffusers_has_no_names_for(tmp_path):
    """A U-Net that takes timesteps and predicts noise, with a variance-exploding schedule."""
    network = ScoreNetwork(tiny_ncsnpp(), EXPLODING, variance_type="fixed_large")
    network.save_pretrained(tmp_path)
    again = load_score_network(tmp_path)
    assert not isinstance(again.unet, NCSNpp)
    assert (again.prediction_type, again.variance_type, again.schedule) == ("epsilon", "fixed_large", EXPLODING)
    metadata = tmp_path / "score_network.json"
    old = {"prediction_type": "epsilon", "variance_type": "fixed_large", "image_range": [-1, 1], "label_weight": 1.0}
    metadata.write_text(json.dumps({**old, "conditioning": "timestep"}))  # as version 0.1 wrote it
    assert torch.equal(load_score_network(tmp_path).eps(X_T, T), again.eps(X_T, T))
    with pytest.raises(ValueError, match=r"must be geometric to be saved. Got NoiseSchedule\(T=3"):
        ScoreNetwork(tiny_ncsnpp(), EXPLODING.respaced([0, 3, 999])).save_pretrained(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_flat_folder_as_on_the_hub(ncsnpp, scheduler, tmp_path):
    """google/ncsnpp-church-256 and its kin: no folders, nothing of ours, and the frequencies under both names."""
    ncsnpp.unet.unet.save_pretrained(tmp_path)
    scheduler.save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    save_file({**state, "time_proj.W": state["time_proj.weight"].clone()}, weights)
    again = load_score_network(tmp_path)
    assert isinstance(again.unet, NCSNpp)
    assert again.schedule == ncsnpp.schedule
    assert torch.equal(again.eps(X_T, T), ncsnpp.eps(X_T, T))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma_min": 0.0}, "sigma_min must be a number in .* Got 0.0"),
        ({"sigma_min": -0.01}, "sigma_min must be a number in .* Got -0.01"),
        ({"sigma_min": 60}, "sigma_min must be below sigma_max, 50.0. Got 60"),
        ({"num_train_timesteps": 1}, "num_train_timesteps must be an integer in 2...100000. Got 1"),
    ],
)
def test_bad_scheduler_configurations(ncsnpp, tmp_path, changes, message):
    ncsnpp.save_pretrained(tmp_path)
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=message):
        load_score_network(tmp_path)
