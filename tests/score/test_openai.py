"""OpenAI's checkpoints against OpenAI's own numbers, and every released layout at full names."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from diffaug_transforms import load_score_network
from diffaug_transforms.score import diffuse, to_signed
from diffaug_transforms.score.openai import (
    ATTENTION,
    RESNET,
    load_openai_checkpoint,
    module_names,
    parse_flags,
    released_flags,
    unet_config,
)
from diffaug_transforms.score.storage import unpack_attention
from diffaug_transforms.score.unet import OpenAIUNet2DModel, UNet2DModel
from tests.openai_checkpoints import fill_one, golden


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("name", ["adm_256_uncond", "iddpm_cifar10_uncond"])
def test_outputs_equal_openais(tmp_path, name):
    path, flags, expected = golden(name, tmp_path)
    network = load_score_network(path, openai_flags=flags)
    x_t, t = expected["x_t"], expected["t"]
    schedule = network.schedule
    assert relative_error(schedule.alphas_cumprod, expected["alphas_cumprod"]) < 1e-6
    assert relative_error(diffuse(to_signed(expected["x0"]), t, expected["noise"], schedule), x_t) < 1e-6
    # The stored model_output is the bare U-Net's at t; ours rescales t by 1000 / T first, so it is given t * T / 1000.
    scale = network.unet.config.get("timestep_scale", 1.0)
    assert relative_error(network.unet(x_t, t / scale).sample, expected["model_output"]) < 1e-5
    assert relative_error(network.posterior(x_t, t)[1], expected["log_variance"]) < 1e-5
    # pred_x0 divides the network's rounding by sqrt(alphas_cumprod), up to 2e4 at t = 3999.
    allowed = 1e-5 * (1 + schedule.sigmas[t]).reshape(-1, 1, 1, 1)
    assert bool(((network.pred_x0(x_t, t) - expected["pred_x0"]).abs() <= allowed).all())


@pytest.mark.parametrize("name", ["adm_256_uncond", "iddpm_cifar10_uncond"])
def test_converted_folder_computes_the_same(tmp_path, name):
    path, flags, expected = golden(name, tmp_path)
    network = load_score_network(path, openai_flags=flags)
    network.save_pretrained(tmp_path / "folder")
    again = load_score_network(tmp_path / "folder")
    assert type(again.unet) is type(network.unet)
    assert again.schedule == network.schedule
    assert torch.equal(again.pred_x0(expected["x_t"], expected["t"]), network.pred_x0(expected["x_t"], expected["t"]))


def test_command_line_flags_equal_the_dict(tmp_path):
    path, flags, _ = golden("iddpm_cifar10_uncond", tmp_path)
    line = 'MODEL_FLAGS="' + " ".join(f"--{key} {value}" for key, value in flags.items()) + '"'
    assert parse_flags(line) == parse_flags(flags)
    load_openai_checkpoint(path, line)


def openai_state(unet: UNet2DModel, legacy_order: bool) -> dict[str, Tensor]:
    """The reverse of the conversion: a checkpoint in OpenAI's names that should load into this very network."""

    inverse = {ours: theirs for theirs, ours in {**RESNET, **ATTENTION}.items()}
    state = {}
    for theirs, ours in module_names(unet):
        for inner, tensor in unet.get_submodule(ours).state_dict().items() if has_module(unet, ours) else ():
            owner, _, kind = inner.rpartition(".")
            if owner in ("to_q", "to_k", "to_v"):
                continue
            renamed = inverse.get(owner, "op" if "down_blocks" in ours and owner == "conv" else owner)
            state[".".join(filter(None, (theirs, renamed, kind)))] = tensor
        if ".attentions." in ours:
            attention = unet.get_submodule(ours)
            for kind in ("weight", "bias"):
                parts = [getattr(getattr(attention, f"to_{letter}"), kind) for letter in "qkv"]
                if legacy_order:
                    parts = [torch.stack([p.unflatten(0, (attention.heads, -1)) for p in parts], 1).flatten(0, 2)]
                packed = torch.cat(parts)
                state[f"{theirs}.qkv.{kind}"] = packed[..., None] if kind == "weight" else packed
            state[f"{theirs}.proj_out.weight"] = state[f"{theirs}.proj_out.weight"][..., None]
    return state


def has_module(unet: UNet2DModel, name: str) -> bool:
    return not (name == "class_embedding" and unet.class_embedding is None)


SMALLER = {"num_channels": 32, "num_head_channels": 16, "num_heads": 2}


@pytest.mark.parametrize("filename", sorted(released_flags()))
def test_every_released_layout_loads(tmp_path, filename):
    """At a fraction of the width: the same blocks, names, packing and flags."""
    flags = parse_flags(released_flags()[filename])
    small = {key: value for key, value in SMALLER.items() if flags[key] != -1}
    if flags["image_size"] == 512:
        small["num_channels"] = 64
    flags = {**flags, **small}
    unet = OpenAIUNet2DModel(**unet_config(flags))
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            parameter.copy_(fill_one(name, list(parameter.shape)))
    torch.save(openai_state(unet, not flags["use_new_attention_order"]), tmp_path / filename)
    network = load_score_network(tmp_path / filename, openai_flags=flags)
    size = flags["image_size"] // 8 if flags["image_size"] > 64 else 32
    x_t = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    t, labels = torch.tensor([300]), torch.tensor([7]) if flags["class_cond"] else None
    torch.testing.assert_close(network.eps(x_t, t, labels), unet(x_t, t, labels).sample[:, :3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("64x64_diffusion.pt", (192, (192, 384, 576, 768), 1000, "cosine", 1000, None)),
        ("128x128_diffusion.pt", (256, (256, 256, 512, 768, 1024), 1000, "linear", 1000, 4)),
        ("256x256_diffusion_uncond.pt", (256, (256, 256, 512, 512, 1024, 1024), 1000, "linear", None, None)),
        ("512x512_diffusion.pt", (256, (128, 256, 256, 512, 512, 1024, 1024), 1000, "linear", 1000, None)),
        ("cifar10_uncond_50M_500K.pt", (128, (128, 256, 256, 256), 4000, "cosine", None, 4)),
        ("imagenet64_cond_270M_250K.pt", (192, (192, 384, 576, 768), 4000, "cosine", 1000, 4)),
    ],
)
def test_released_flags_give_the_papers_networks(filename, expected):
    flags = parse_flags(released_flags()[filename])
    config = unet_config(flags)
    found = (
        flags["num_channels"],
        config["block_out_channels"],
        flags["diffusion_steps"],
        flags["noise_schedule"],
        config["num_class_embeds"],
        config.get("num_heads"),
    )
    assert found == expected
    assert config.get("timestep_scale", 1) == (0.25 if "uncond" in filename and expected[2] == 4000 else 1)
    assert config.get("model_channels") == (256 if filename.startswith("512") else None)


def test_unpack_attention_by_hand():
    # Two heads of one channel: legacy order is q1 k1 v1 q2 k2 v2, new order q1 q2 k1 k2 v1 v2.
    packed = torch.arange(6.0)
    assert [x.tolist() for x in unpack_attention(packed, 2, True)] == [[0, 3], [1, 4], [2, 5]]
    assert [x.tolist() for x in unpack_attention(packed, 2, False)] == [[0, 1], [2, 3], [4, 5]]


def test_rescaling_is_each_repositorys_own_default():
    assert parse_flags({"diffusion_steps": 4000})["rescale_timesteps"] is True
    assert parse_flags({"diffusion_steps": 4000, "resblock_updown": True})["rescale_timesteps"] is False
    assert parse_flags("--rescale_timesteps False")["rescale_timesteps"] is False


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--image_size 100", r"image_size must be one of \[32, 64, 128, 256, 512\].*Got 100"),
        ("--depth 3", r"must be flags of improved-diffusion or guided-diffusion. Got \['depth'\]"),
        ("image_size 64", "must be pairs such as"),
        ("--class_cond maybe", "class_cond must be True or False. Got 'maybe'"),
        ("--num_channels wide", "num_channels must be int. Got 'wide'"),
        ("--noise_schedule sqrt", "noise_schedule must be one of"),
        ("--large_size 256 --small_size 64", "upsamplers take a second image and are not supported"),
    ],
)
def test_bad_flags(flags, message):
    with pytest.raises(ValueError, match=message):
        unet_config(parse_flags(flags))


def test_unknown_file_without_flags(tmp_path):
    path, _, _ = golden("adm_256_uncond", tmp_path)
    with pytest.raises(ValueError, match="none of OpenAI's released file names.*pass openai_flags"):
        load_score_network(path)


@pytest.mark.parametrize("wrong", [{"num_res_blocks": 3}, {"num_head_channels": 12}, {"attention_resolutions": "16"}])
def test_flags_of_another_network(tmp_path, wrong):
    path, flags, _ = golden("adm_256_uncond", tmp_path)
    with pytest.raises(OSError, match="do not fit openai_flags"):
        load_score_network(path, openai_flags={**flags, **wrong})


def test_damaged_and_foreign_files(tmp_path):
    path, flags, _ = golden("iddpm_cifar10_uncond", tmp_path)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(OSError, match="damaged, incomplete or no state dict"):
        load_score_network(path, openai_flags=flags)
    torch.save({"model": {"a": torch.ones(1)}}, path)
    with pytest.raises(OSError, match="no plain state dict"):
        load_score_network(path, openai_flags=flags)
    with pytest.raises(OSError, match="there is no checkpoint at"):
        load_score_network(tmp_path / "missing.pt", openai_flags=flags)


def test_known_names_need_no_flags(tmp_path):
    assert json.dumps(released_flags())  # plain data
    (tmp_path / "256x256_diffusion_uncond.pt").write_bytes(b"")
    with pytest.raises(OSError, match="damaged"):
        load_score_network(tmp_path / "256x256_diffusion_uncond.pt")


def small_checkpoint(channels: int, classes: int | None) -> tuple[dict[str, Tensor], dict[str, object], UNet2DModel]:
    """A checkpoint of a network trained on one's own data: other channels, other classes."""
    flags = {"image_size": 32, "num_channels": 32, "num_res_blocks": 1, "class_cond": classes is not None}
    parsed = parse_flags(flags | {"learn_sigma": True})
    unet = OpenAIUNet2DModel(**unet_config(parsed, channels, classes or 1000))
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            parameter.copy_(fill_one(name, list(parameter.shape)))
    return openai_state(unet, True), flags | {"learn_sigma": True}, unet


@pytest.mark.parametrize(("channels", "classes"), [(3, 10), (1, None), (4, 7)])
def test_classes_and_channels_are_read_from_the_weights(tmp_path, channels, classes):
    state, flags, unet = small_checkpoint(channels, classes)
    torch.save(state, tmp_path / "own.pt")
    network = load_score_network(tmp_path / "own.pt", openai_flags=flags)
    assert (network.in_channels, network.num_classes) == (channels, classes)
    x_t, t = torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 900])
    labels = None if classes is None else torch.tensor([0, classes - 1])
    expected = unet(x_t, t, labels).sample[:, :channels]
    torch.testing.assert_close(network.eps(x_t, t, labels), expected, rtol=1e-4, atol=1e-5)
    network.save_pretrained(tmp_path / "folder")
    assert torch.equal(load_score_network(tmp_path / "folder").eps(x_t, t, labels), network.eps(x_t, t, labels))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "_orig_mod.module.", "model.module."])
@pytest.mark.parametrize("name", ["own.pt", "own.ckpt", "own.safetensors"])
def test_prefixes_and_endings(tmp_path, prefix, name):
    state, flags, unet = small_checkpoint(3, None)
    renamed = {prefix + key: tensor.detach().clone() for key, tensor in state.items()}
    if name.endswith("safetensors"):
        save_file(renamed, tmp_path / name)
    else:
        torch.save({"state_dict": renamed, "epoch": 3} if name.endswith("ckpt") else renamed, tmp_path / name)
    network = load_score_network(tmp_path / name, openai_flags=flags)
    assert torch.equal(network.unet.conv_in.weight, unet.conv_in.weight)


def test_weights_that_do_not_fit_show_their_first_names(tmp_path):
    state, flags, _ = small_checkpoint(3, None)
    torch.save({f"net.{key}": tensor for key, tensor in state.items()}, tmp_path / "own.pt")
    with pytest.raises(OSError, match=r"do not fit openai_flags: .*first tensors: net\.time_embed"):
        load_score_network(tmp_path / "own.pt", openai_flags=flags)
    with pytest.raises(OSError, match="do not fit openai_flags"):
        load_score_network(tmp_path / "own.pt", openai_flags=flags | {"class_cond": True})
    torch.save({}, tmp_path / "own.pt")
    with pytest.raises(OSError, match="do not fit openai_flags"):
        load_score_network(tmp_path / "own.pt", openai_flags=flags)


@pytest.mark.parametrize(
    "line",
    [
        "python scripts/image_sample.py --image_size 64 --num_channels 96",
        "mpiexec -n 8 python3 scripts/image_train.py --data_dir path/to/images --image_size 64 --num_channels 96",
        "python image_sample.py --model_path m.pt $A --image_size=64 \\\n  --num_channels '96' ${SAMPLE_FLAGS}",
        'MODEL_FLAGS="--image_size 64 --num_channels 96"; GPU=0 python image_sample.py $MODEL_FLAGS',
        "$ OPENAI_LOGDIR=/tmp/x /usr/bin/python3.11 image_sample.py --image_size 64 --num_channels 96",
    ],
)
def test_whole_command_lines(line):
    assert parse_flags(line) == parse_flags({"image_size": 64, "num_channels": 96, "rescale_timesteps": True})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("image_size 64 --num_channels 96", "must be pairs such as"),
        ("--class_cond --image_size 64", "must be pairs such as"),
        ("--image_size 1000000000", "openai_flags: image_size must be an integer in 1...8192. Got 1000000000"),
        ("--num_res_blocks 1000000", "num_res_blocks must be an integer in 1...16"),
        ("--diffusion_steps 0", "diffusion_steps must be .* Got 0"),
        ("--num_heads 0", "num_heads must be .* Got 0"),
        ("--attention_resolutions 0", "attention_resolutions must be at least 1. Got '0'"),
        ("--attention_resolutions a", "attention_resolutions must be numbers with commas between them. Got 'a'"),
        ("--channel_mult 1,x", "channel_mult must be numbers"),
        ("--channel_mult 0,1", "channel_mult must be a list"),
    ],
)
def test_flags_out_of_range(flags, message):
    with pytest.raises(ValueError, match=message):
        unet_config(parse_flags(flags))


@pytest.mark.parametrize("flags", [{"num_channels": 100}, {"num_heads": 3}, {"num_head_channels": 5}])
def test_flags_of_no_network(tmp_path, flags):
    state, given, _ = small_checkpoint(3, None)
    torch.save(state, tmp_path / "own.pt")
    with pytest.raises((ValueError, OSError), match="describes no network that can be built|do not fit openai_flags"):
        load_score_network(tmp_path / "own.pt", openai_flags=given | flags)
