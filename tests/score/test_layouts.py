"""Folders as diffusers writes them: variants, shards, subfolders; locally, from the Hub and from its cache."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from diffaug_transforms import ScoreNetwork, load_score_network
from diffaug_transforms.score import NoiseSchedule
from tests.conftest import tiny_unet
from tests.hub_server import run_python, serve_hub

X_T, T = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 800])


def save(folder, **options):
    """A pipeline's folder; ``options`` go to the U-Net's save_pretrained."""
    unet = tiny_unet()
    unet.save_pretrained(folder / "unet", **options)
    DDPMScheduler().save_pretrained(folder / "scheduler")
    return unet(X_T, T).sample


LAYOUTS = [
    {"variant": "fp16"},
    {"max_shard_size": "200KB"},
    {"max_shard_size": "200KB", "safe_serialization": False},
    {"max_shard_size": "200KB", "variant": "fp16"},
    {"variant": "fp16", "safe_serialization": False},
]


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
def test_variants_and_shards(tmp_path, options):
    expected = save(tmp_path, **options)
    assert len(list((tmp_path / "unet").glob("*-of-*"))) != 1
    network = load_score_network(tmp_path, variant=options.get("variant"))
    torch.testing.assert_close(network.unet(X_T, T).sample, expected)


CODE = """
import torch
from diffaug_transforms import load_score_network
network = load_score_network("me/tiny", **{options!r})
x_t = torch.linspace(-1, 1, 3 * 16 ** 2).reshape(1, 3, 16, 16)
print(network.eps(x_t, torch.tensor([100])).double().sum().item())
"""


@pytest.mark.parametrize(
    ("written", "given"),
    [
        ({"variant": "fp16"}, {"variant": "fp16"}),
        ({"max_shard_size": "200KB", "variant": "fp16"}, {"variant": "fp16", "subfolder": "unet"}),
        ({"max_shard_size": "200KB", "safe_serialization": False}, {}),
    ],
    ids=str,
)
def test_variants_and_shards_of_the_hub_and_its_cache(tmp_path, written, given):
    save(tmp_path / "repo", **written)
    home = tmp_path / "home"
    with serve_hub({"me/tiny": tmp_path / "repo"}) as hub:
        line = run_python(CODE.format(options=given), hub.url, home)
    local = load_score_network(tmp_path / "repo", **given)
    x_t = torch.linspace(-1, 1, 3 * 16**2).reshape(1, 3, 16, 16)
    assert float(line) == pytest.approx(local.eps(x_t, torch.tensor([100])).double().sum().item(), rel=1e-3, abs=1e-2)
    offline = CODE.format(options={**given, "local_files_only": True})
    assert run_python(offline, "http://127.0.0.1:9", home) == line


def test_a_training_checkpoint_beside_its_scheduler(tmp_path):
    """diffusers' train_unconditional.py writes checkpoint-500/unet, and scheduler/ at the end."""
    expected = save(tmp_path)
    (tmp_path / "checkpoint-500").mkdir()
    (tmp_path / "unet").rename(tmp_path / "checkpoint-500" / "unet")
    for subfolder in ("checkpoint-500", "checkpoint-500/unet"):
        network = load_score_network(tmp_path, subfolder=subfolder)
        torch.testing.assert_close(network.unet(X_T, T).sample, expected)
    network = ScoreNetwork.from_pretrained(tmp_path, subfolder="checkpoint-500")
    assert network.num_timesteps == 1000


def test_the_null_class_is_found_from_the_unets_folder(null_conditional, tmp_path):
    null_conditional.save_pretrained(tmp_path)
    assert load_score_network(tmp_path, subfolder="unet").null_class == 5


def test_missing_variants_and_folders(tmp_path):
    save(tmp_path, variant="fp16")
    with pytest.raises(
        OSError, match=r"has no weights: neither .*safetensors nor .*bin.*fp16\.safetensors: pass variant"
    ):
        load_score_network(tmp_path)
    with pytest.raises(OSError, match=r"has no weights: neither diffusion_pytorch_model\.bf16\.safetensors"):
        load_score_network(tmp_path, variant="bf16")
    with pytest.raises(ValueError, match=r"variant must be a word.*Got '\.\./x'"):
        load_score_network(tmp_path, variant="../x")
    with pytest.raises(ValueError, match=r"subfolder must be a path inside .* Got '\.\./x'"):
        load_score_network(tmp_path, subfolder="../x")
    with pytest.raises(OSError, match="has no folder nowhere"):
        load_score_network(tmp_path, subfolder="nowhere")
    with pytest.raises(ValueError, match="variant are for folders and Hub repositories. Got them with 'cifar10'"):
        load_score_network("cifar10", variant="fp16")


def test_a_missing_shard_is_named(tmp_path):
    save(tmp_path, max_shard_size="200KB")
    shard = sorted((tmp_path / "unet").glob("*-of-*"))[1]
    shard.unlink()
    with pytest.raises(OSError, match=f"has no weights: neither {shard.name}"):
        load_score_network(tmp_path)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler, EulerDiscreteScheduler])
def test_zero_terminal_signal(tmp_path, kind, schedule):
    tiny_unet().save_pretrained(tmp_path / "unet")
    scheduler = kind(1000, beta_schedule=schedule, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    scheduler.save_pretrained(tmp_path / "scheduler")
    network = load_score_network(tmp_path)
    # Euler's last two are changed by diffusers, so that its sigmas stay finite.
    expected = DDPMScheduler(1000, beta_schedule=schedule, rescale_betas_zero_snr=True).alphas_cumprod
    torch.testing.assert_close(network.schedule.alphas_cumprod, expected, rtol=1e-2, atol=2e-7)
    assert NoiseSchedule.from_scheduler(scheduler) == network.schedule
    assert bool(torch.isfinite(network.pred_x0(X_T, torch.tensor([500, 999]))).all())
    network.save_pretrained(tmp_path / "again")
    assert load_score_network(tmp_path / "again").schedule == network.schedule


def test_rescaling_a_rare_schedule_is_refused():
    scheduler = DDPMScheduler(1000, beta_schedule="sigmoid", rescale_betas_zero_snr=True)
    with pytest.raises(ValueError, match="rescale_betas_zero_snr needs a linear, .* Got 'sigmoid'"):
        NoiseSchedule.from_scheduler(scheduler)


@pytest.mark.parametrize("schedule", ["scaled_linear", "sigmoid", "laplace"])
def test_other_schedules_are_diffusers(tmp_path, schedule):
    tiny_unet().save_pretrained(tmp_path / "unet")
    DDPMScheduler(1000, 0.001, 0.01, beta_schedule=schedule).save_pretrained(tmp_path / "scheduler")
    expected = DDPMScheduler(1000, 0.001, 0.01, beta_schedule=schedule).alphas_cumprod
    torch.testing.assert_close(load_score_network(tmp_path).schedule.alphas_cumprod, expected, rtol=1e-4, atol=1e-7)


def test_a_solvers_null_variance(tmp_path):
    tiny_unet().save_pretrained(tmp_path / "unet")
    DPMSolverMultistepScheduler(500).save_pretrained(tmp_path / "scheduler")
    network = load_score_network(tmp_path)
    assert (network.num_timesteps, network.variance_type) == (500, "fixed_small")


def test_old_files_say_predict_epsilon(tmp_path):
    tiny_unet().save_pretrained(tmp_path / "unet")
    DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    path = tmp_path / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    config.pop("prediction_type")
    path.write_text(json.dumps(config | {"predict_epsilon": False}))
    assert load_score_network(tmp_path).prediction_type == "sample"
