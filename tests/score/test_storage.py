"""Folders in diffusers' layout: ours read by diffusers, diffusers' and the fork's read by us."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler
from safetensors.torch import load_file, save_file

from diffaug_transforms import ScoreNetwork, load_score_network
from tests.conftest import tiny_unet
from tests.openai_checkpoints import golden

X_T, T = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 800])


def test_round_trip(null_conditional, tmp_path):
    network = ScoreNetwork(null_conditional.unet, null_conditional.schedule, null_class=5, guidance_scale=0.5)
    network.save_pretrained(tmp_path)
    again = ScoreNetwork.from_pretrained(tmp_path)
    assert (again.null_class, again.guidance_scale, again.num_classes) == (5, 0.5, 5)
    assert again.schedule == network.schedule
    labels = torch.tensor([1, 3])
    assert torch.equal(again.eps(X_T, T, labels), network.eps(X_T, T, labels))


def test_diffusers_pipelines_read_it(network, tmp_path):
    network.save_pretrained(tmp_path)
    pipeline = DDPMPipeline.from_pretrained(tmp_path)
    torch.testing.assert_close(pipeline.unet(X_T, T).sample, network.eps(X_T, T), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pipeline.scheduler.alphas_cumprod, network.schedule.alphas_cumprod)


def test_diffusers_pipelines_read_openais_extra_keys(tmp_path):
    """Improved-DDPM's four heads and rescaled timesteps travel with the folder, not only with our loader."""
    path, flags, expected = golden("iddpm_cifar10_uncond", tmp_path)
    network = load_score_network(path, openai_flags=flags)
    network.save_pretrained(tmp_path / "folder")
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "folder")
    eps = pipeline.unet(expected["x_t"], expected["t"]).sample[:, :3]
    torch.testing.assert_close(eps, network.eps(expected["x_t"], expected["t"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_flat_folder_with_another_scheduler(tmp_path, prediction_type):
    unet = tiny_unet()
    unet.save_pretrained(tmp_path)
    DDIMScheduler(500, beta_schedule="squaredcos_cap_v2", prediction_type=prediction_type).save_pretrained(tmp_path)
    network = load_score_network(str(tmp_path))
    assert network.num_timesteps == 500
    assert network.prediction_type == prediction_type


def test_bin_weights(tmp_path):
    unet = tiny_unet()
    unet.save_pretrained(tmp_path, safe_serialization=False)
    DDPMScheduler().save_pretrained(tmp_path)
    torch.testing.assert_close(load_score_network(tmp_path).unet(X_T, T).sample, unet(X_T, T).sample)


def test_attention_under_diffusers_older_names(tmp_path):
    """google/ddpm-cifar10-32 and its kin were saved when diffusers called its projections query, key and value."""
    unet = tiny_unet()
    unet.save_pretrained(tmp_path)
    DDPMScheduler().save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, tensor in load_file(weights).items():
        for new, old in older.items():
            name = name.replace(f".{new}.", f".{old}.")
        state[name] = tensor
    assert any(".query." in name for name in state)
    save_file(state, weights)
    torch.testing.assert_close(load_score_network(tmp_path).unet(X_T, T).sample, unet(X_T, T).sample)


def forked_folder(tmp_path):
    """golden's ADM as the fork of diffusers writes it: qkv split into plain thirds, its own configuration keys."""
    path, flags, expected = golden("adm_256_uncond", tmp_path)
    folder = tmp_path / "fork"
    load_score_network(path, openai_flags=flags).save_pretrained(folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    packed = torch.load(path, weights_only=True)
    heads_first = {name: state[name] for name in state if ".to_q." in name}
    originals = [tensor.squeeze(-1) for name, tensor in packed.items() if ".qkv." in name]
    for name in heads_first:
        (q_unpacked,) = [heads_first[name]]
        names = [name, name.replace("to_q", "to_k"), name.replace("to_q", "to_v")]
        match = next(
            p for p in originals if p.shape[1:] == q_unpacked.shape[1:] and holds(p, [state[n] for n in names])
        )
        state.update({n: third.contiguous() for n, third in zip(names, match.chunk(3))})
    save_file(state, weights)
    config = json.loads((folder / "unet" / "config.json").read_text())
    config.update(time_embedding_type="adm", attention_legacy_order=True, norm_eps=1e-6)
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    return folder, expected


def holds(packed: torch.Tensor, parts: list[torch.Tensor]) -> bool:
    return packed.shape[0] == 3 * len(parts[0]) and torch.equal(packed.sort(0)[0], torch.cat(parts).sort(0)[0])


def test_the_forks_attention_is_not_silently_wrong(tmp_path):
    folder, expected = forked_folder(tmp_path)
    network = load_score_network(folder)
    output = network.unet(expected["x_t"], expected["t"]).sample
    assert float((output - expected["model_output"]).abs().max() / expected["model_output"].abs().max()) < 1e-5


def test_the_forks_half_precision_weights_load_in_float32(tmp_path):
    folder, _ = forked_folder(tmp_path)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights)
    assert load_score_network(folder).dtype == torch.float32


def test_latent_and_text_models_are_refused(tmp_path, network):
    network.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({"_class_name": "StableDiffusionPipeline", "vae": [], "text_encoder": [], "unet": []}))
    with pytest.raises(ValueError, match="StableDiffusionPipeline with text_encoder, vae: not pixel space"):
        load_score_network(tmp_path)
    index.unlink()
    config = tmp_path / "unet" / "config.json"
    config.write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(ValueError, match="UNet2DConditionModel. A pixel-space UNet2DModel"):
        load_score_network(tmp_path)


def test_schedulers_without_betas_are_refused(tmp_path, network):
    network.save_pretrained(tmp_path)
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "VQDiffusionScheduler"}))
    with pytest.raises(ValueError, match="a scheduler with betas or .*Got 'VQDiffusionScheduler'"):
        load_score_network(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="no scheduler_config.json, so the noise schedule is unknown"):
        load_score_network(tmp_path)


def test_missing_truncated_and_foreign_weights(tmp_path, network):
    network.save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match="damaged, incomplete or no state dict"):
        load_score_network(tmp_path)
    weights.write_bytes(whole)
    state = load_file(weights)
    state.pop("conv_out.bias")
    save_file(state, weights)
    with pytest.raises(OSError, match=r"weights of .* do not fit config.json.*conv_out\.bias"):
        load_score_network(tmp_path)
    weights.unlink()
    with pytest.raises(OSError, match="has no weights"):
        load_score_network(tmp_path)


def test_an_empty_folder(tmp_path):
    with pytest.raises(ValueError, match=r"neither unet/config.json nor config.json"):
        load_score_network(tmp_path)


def test_a_changed_byte_of_a_saved_network_is_seen(tmp_path, network):
    network.save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1001] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(OSError, match="not those that were written, by their checksum"):
        load_score_network(tmp_path)


def test_saving_replaces_links_and_follows_none(tmp_path, network):
    """Snapshots in the Hub's cache are links to files that other snapshots use."""
    network.save_pretrained(tmp_path / "first")
    weights = tmp_path / "first" / "unet" / "diffusion_pytorch_model.safetensors"
    blob = tmp_path / "blob"
    weights.rename(blob)
    weights.symlink_to(blob)
    before = blob.read_bytes()
    again = load_score_network(tmp_path / "first")
    again.unet.conv_in.weight.mul_(2)
    again.save_pretrained(tmp_path / "first")
    assert blob.read_bytes() == before
    assert torch.equal(load_score_network(tmp_path / "first").unet.conv_in.weight, again.unet.conv_in.weight)
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == [
        "model_index.json",
        "scheduler",
        "score_network.json",
        "unet",
    ]
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "unet").symlink_to(tmp_path / "first" / "unet")
    with pytest.raises(OSError, match="second/unet is a link to another folder"):
        again.save_pretrained(tmp_path / "second")
