"""OpenAI's guidance classifiers: OpenAI's own numbers, and the names and shapes of every released one."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import load_score_network
from diffaug_transforms.guidance import GuidanceEncoder, load_guidance_classifier
from diffaug_transforms.guidance.openai import RELEASES, convert_classifier, encoder_config, parse_classifier_flags
from diffaug_transforms.images import sample_images
from diffaug_transforms.score.storage import load_strictly
from tests.openai_checkpoints import REFERENCE, golden

Parameters = Iterator[tuple[str, list[int]]]


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.detach() - theirs).abs().max() / theirs.abs().max())


def test_logits_and_gradient_equal_openais_also_from_our_folder(tmp_path):
    path, flags, expected = golden("adm_classifier_64", tmp_path)
    classifier = load_guidance_classifier(path, flags)
    assert not classifier.training
    x_t = expected["x_t"].clone().requires_grad_()
    logits = classifier(x_t, expected["t"])
    assert relative_error(logits, expected["logits"]) < 1e-5
    log_prob = logits.log_softmax(1).gather(1, expected["y"][:, None]).sum()
    assert relative_error(torch.autograd.grad(log_prob, x_t)[0], expected["grad_log_prob"]) < 1e-5
    classifier.save_pretrained(tmp_path / "folder")
    again = load_guidance_classifier(tmp_path / "folder")
    assert torch.equal(again(x_t, expected["t"]), logits)


def test_the_embedded_classifier_knows_the_sample_images():
    classifier = load_guidance_classifier("cifar10-denoise-augmented")
    images = sample_images()
    x_0 = torch.stack([F.to_dtype(F.to_image(image), torch.float32, scale=True) for image in images.values()]) * 2 - 1
    x_t = x_0 + 0.05 * torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
    found = [classifier.classes[index] for index in classifier(x_t, torch.full((len(x_t),), 10)).argmax(1)]
    assert sum(guess == label for guess, label in zip(found, images)) >= 5


def test_new_attention_order(tmp_path):
    """The same classifier, its blocks' qkv packed in the other order; the pool's always is in the new one."""
    path, flags, expected = golden("adm_classifier_64", tmp_path)
    state = torch.load(path, weights_only=True)
    for name in [key for key in state if ".qkv." in key]:
        by_head = state[name].unflatten(0, (-1, 3, 64))
        state[name] = by_head.transpose(0, 1).flatten(0, 2)
    torch.save(state, path)
    classifier = load_guidance_classifier(path, {**flags, "use_new_attention_order": True})
    assert relative_error(classifier(expected["x_t"][:1], expected["t"][:1]), expected["logits"][:1]) < 1e-5


def resblock(name: str, inputs: int, outputs: int, time: int) -> Parameters:
    yield from norm_or_bias(f"{name}.in_layers.0", [inputs], inputs)
    yield from norm_or_bias(f"{name}.in_layers.2", [outputs, inputs, 3, 3], outputs)
    yield from norm_or_bias(f"{name}.emb_layers.1", [2 * outputs, time], 2 * outputs)
    yield from norm_or_bias(f"{name}.out_layers.0", [outputs], outputs)
    yield from norm_or_bias(f"{name}.out_layers.3", [outputs, outputs, 3, 3], outputs)
    if inputs != outputs:
        yield from norm_or_bias(f"{name}.skip_connection", [outputs, inputs, 1, 1], outputs)


def attention(name: str, width: int) -> Parameters:
    yield from norm_or_bias(f"{name}.norm", [width], width)
    yield from norm_or_bias(f"{name}.qkv", [3 * width, width, 1], 3 * width)
    yield from norm_or_bias(f"{name}.proj_out", [width, width, 1], width)


def norm_or_bias(name: str, weight: list[int], bias: int) -> Parameters:
    yield f"{name}.weight", weight
    yield f"{name}.bias", [bias]


def openai_parameters(size: int, width: int, depth: int, widths: list[int]) -> Parameters:
    """Names and shapes in OpenAI's files, by the order in which EncoderUNetModel builds its blocks."""
    time, number, previous = 4 * width, 1, widths[0]
    yield from norm_or_bias("time_embed.0", [time, width], time)
    yield from norm_or_bias("time_embed.2", [time, time], time)
    yield from norm_or_bias("input_blocks.0.0", [widths[0], 3, 3, 3], widths[0])
    for level, channels in enumerate(widths):
        for _ in range(depth):
            yield from resblock(f"input_blocks.{number}.0", previous, channels, time)
            if size >> level in (32, 16, 8):
                yield from attention(f"input_blocks.{number}.1", channels)
            number, previous = number + 1, channels
        if level < len(widths) - 1:
            yield from resblock(f"input_blocks.{number}.0", channels, channels, time)
            number += 1
    yield from resblock("middle_block.0", channels, channels, time)
    yield from attention("middle_block.1", channels)
    yield from resblock("middle_block.2", channels, channels, time)
    yield from norm_or_bias("out.0", [channels], channels)
    yield "out.2.positional_embedding", [channels, (size >> level) ** 2 + 1]
    yield from norm_or_bias("out.2.qkv_proj", [3 * channels, channels, 1], 3 * channels)
    yield from norm_or_bias("out.2.c_proj", [1000, channels, 1], 1000)


def test_names_and_shapes_written_here_are_openais():
    with safe_open(REFERENCE / "adm_classifier_64.safetensors", "pt") as file:
        parameters = json.loads(file.metadata()["parameters"])
    assert dict(openai_parameters(64, 64, 2, [64, 128, 192, 256])) == parameters


@pytest.mark.parametrize(
    ("size", "depth", "widths", "millions"),
    [
        (64, 4, [128, 256, 384, 512], 65.4),
        (128, 2, [128, 128, 256, 384, 512], 42.6),
        (256, 2, [128, 128, 256, 256, 512, 512], 54.1),
        (512, 2, [64, 128, 128, 256, 256, 512, 512], 54.4),
    ],
)
def test_every_released_classifier_fits(tmp_path, size, depth, widths, millions):
    flags = parse_classifier_flags(RELEASES[f"{size}x{size}_classifier.pt"])
    with torch.device("meta"):
        encoder = GuidanceEncoder(**encoder_config(flags))
        state = {name: torch.empty(shape) for name, shape in openai_parameters(size, 128, depth, widths)}
    load_strictly(encoder, convert_classifier(state, encoder, True), tmp_path, "openai_flags")
    assert round(encoder.num_parameters() / 1e6, 1) == millions
    # The first level of 512's is half as wide as the time embedding's input; levels and time must still meet.
    assert encoder(
        torch.empty(1, 3, size, size, device="meta"), torch.empty(1, dtype=torch.int64, device="meta")
    ).shape == (1, 1000)


def test_command_lines():
    trained = (
        "--iterations 300000 --anneal_lr True --batch_size 256 --lr 3e-4 --weight_decay 0.05 --image_size 128 "
        "--classifier_attention_resolutions 32,16,8 --classifier_depth 2 --classifier_width 128 "
        "--classifier_pool attention --classifier_resblock_updown True --classifier_use_scale_shift_norm True"
    )
    assert parse_classifier_flags(trained) == parse_classifier_flags(RELEASES["128x128_classifier.pt"])
    # A sampling line's attention order is the score network's; guided-diffusion gives it to no classifier.
    sampled = (
        'MODEL_FLAGS="--attention_resolutions 32,16,8 --class_cond True --image_size 64 --num_channels 192 '
        '--use_new_attention_order True" --classifier_scale 1.0 --classifier_depth 4'
    )
    assert parse_classifier_flags(sampled) == parse_classifier_flags(RELEASES["64x64_classifier.pt"])


def test_other_blocks_are_expressible():
    """Downsampling by convolution, and time that is added: parameters that the released ones do not have."""
    flags = {"classifier_width": 32, "classifier_use_scale_shift_norm": False, "classifier_resblock_updown": False}
    config = encoder_config(
        parse_classifier_flags({**flags, "classifier_attention_resolutions": "16", "image_size": 32})
    )
    kinds = ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D")
    assert (config["down_block_types"], config["downsample_type"]) == (kinds, "conv")
    assert config["resnet_time_scale_shift"] == "default"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--classifier_pool spatial", "classifier_pool must be 'attention'.*Got 'spatial'"),
        ({"classifier_heads": 4}, r"openai_flags must be flags of guided-diffusion. Got \['classifier_heads'\]"),
        ("--image_size 100", r"image_size must be one of .*Got 100"),
        ("--classifier_depth deep", "classifier_depth must be int. Got 'deep'"),
        ("classifier_depth 4", "openai_flags must be pairs such as"),
    ],
)
def test_bad_flags(flags, message):
    with pytest.raises(ValueError, match=message):
        encoder_config(parse_classifier_flags(flags))


def test_files_that_do_not_fit(tmp_path):
    path, flags, _ = golden("adm_classifier_64", tmp_path)
    with pytest.raises(ValueError, match="none of OpenAI's released classifiers.*pass openai_flags"):
        load_guidance_classifier(path)
    for wrong in ({"classifier_depth": 3}, {"classifier_width": 128}, {"image_size": 128}):
        with pytest.raises(OSError, match="do not fit openai_flags"):
            load_guidance_classifier(path, {**flags, **wrong})
    with pytest.raises(ValueError, match="network is for folders with a denoise-augmented classifier"):
        load_guidance_classifier(path, flags, network="cifar10")
    with pytest.raises(OSError, match="do not fit openai_flags"):
        load_score_network(path, openai_flags={"image_size": 64, "num_channels": 64, "resblock_updown": True})
    unet, _, _ = golden("iddpm_cifar10_uncond", tmp_path)
    with pytest.raises(OSError, match="do not fit openai_flags"):
        load_guidance_classifier(unet, flags)


def test_classes_and_prefixes_of_ones_own_classifier(tmp_path):
    path, flags, expected = golden("adm_classifier_64", tmp_path)
    state = torch.load(path, weights_only=True)
    for kind in ("weight", "bias"):
        state[f"out.2.c_proj.{kind}"] = state[f"out.2.c_proj.{kind}"][:7].clone()
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    logits = load_guidance_classifier(path, flags)(expected["x_t"][:1], expected["t"][:1])
    assert relative_error(logits, expected["logits"][:1, :7]) < 1e-5


def test_damaged_and_missing_files(tmp_path):
    (tmp_path / "64x64_classifier.pt").write_bytes(b"")
    with pytest.raises(OSError, match="damaged, incomplete or no state dict"):
        load_guidance_classifier(tmp_path / "64x64_classifier.pt")
    with pytest.raises(OSError, match="there is no classifier at"):
        load_guidance_classifier(tmp_path / "missing.pt", {})
