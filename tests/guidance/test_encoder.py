"""The encoder's two forms, its sizes, its pool by hand, and diffusers' way of saving."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffaug_transforms.guidance import GuidanceEncoder
from diffaug_transforms.guidance.encoder import AttentionPool
from tests.guidance.guidance_encoders import tiny_encoder

X_T = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PRED_X0, T = (0.5 * X_T).clamp(-1, 1), torch.tensor([0, 300, 999])


def test_defaults_are_openais_for_64_pixels():
    with torch.device("meta"):
        encoder = GuidanceEncoder()
    assert encoder.pool.positional_embedding.shape == (512, 65)
    assert [hasattr(block, "attentions") for block in encoder.down_blocks] == [False, True, True, True]
    assert encoder.mid_block.attentions[0].heads == encoder.pool.heads == 8


def test_attention_pool_by_definition():
    """One query, the map's mean with its own position; each head attends over mean and pixels."""
    torch.manual_seed(0)
    pool, features = AttentionPool(8, 4, head_dim=4, outputs=5), torch.randn(2, 8, 2, 2)
    tokens = torch.cat([features.mean((2, 3))[..., None], features.flatten(2)], 2) + pool.positional_embedding
    expected = []
    for sample in tokens:
        query, key, value = (pool.qkv_proj.weight @ sample + pool.qkv_proj.bias[:, None]).chunk(3)
        heads = []
        for start in (0, 4):
            rows = slice(start, start + 4)
            weights = (query[rows, 0] @ key[rows] / 2).softmax(0)
            heads.append(value[rows] @ weights)
        expected.append(pool.c_proj(torch.cat(heads)))
    assert torch.allclose(pool(features), torch.stack(expected), atol=1e-6)


def test_time_and_every_image_count():
    encoder = tiny_encoder()
    logits = encoder(X_T, T)
    assert logits.shape == (3, 7)
    assert not torch.allclose(encoder(X_T, T.flip(0)), logits, atol=1e-4)
    assert torch.allclose(encoder(X_T[1:2], T[1:2]), logits[1:2], atol=1e-5)
    assert encoder(X_T[:0], T[:0]).shape == (0, 7)


def test_denoise_augmented_form_starts_nearly_as_the_noisy_one():
    noisy = tiny_encoder()
    augmented = noisy.with_denoised_input(torch.Generator().manual_seed(1))
    weight = augmented.conv_in_denoised.weight
    assert 0 < weight.abs().max() < 0.005
    logits, same = noisy(X_T, T), augmented(X_T, T, PRED_X0)
    assert 0 < (same - logits).abs().max() < 0.02 * logits.abs().max()
    assert not augmented.training
    shared = {name: tensor for name, tensor in augmented.state_dict().items() if name != "conv_in_denoised.weight"}
    assert all(torch.equal(tensor, noisy.state_dict()[name]) for name, tensor in shared.items())
    assert shared.keys() == noisy.state_dict().keys()


def test_denoise_augmented_form_is_a_copy_that_trains():
    noisy = tiny_encoder().train()
    augmented = noisy.with_denoised_input(torch.Generator().manual_seed(1))
    again = noisy.with_denoised_input(torch.Generator().manual_seed(1))
    assert torch.equal(augmented.conv_in_denoised.weight, again.conv_in_denoised.weight)
    assert augmented.training
    augmented(X_T, T, PRED_X0).square().sum().backward()
    assert all(parameter.grad is not None for parameter in augmented.parameters())
    with torch.no_grad():
        augmented.conv_in.weight.zero_()
    assert noisy.conv_in.weight.abs().max() > 0


@pytest.mark.parametrize("std", [None, 0.1])
def test_diffusers_saves_and_loads_it(tmp_path, std):
    encoder = tiny_encoder(std, model_channels=64, resnet_time_scale_shift="default", downsample_type="conv")
    encoder.save_pretrained(tmp_path)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").exists()
    again = GuidanceEncoder.from_pretrained(tmp_path)
    inputs = (X_T, T) if std is None else (X_T, T, PRED_X0)
    assert torch.equal(again(*inputs), encoder(*inputs))


def test_bfloat16():
    encoder = tiny_encoder(0.1)
    logits = encoder(X_T, T, PRED_X0)
    rounded = encoder.to(torch.bfloat16)(X_T, T, PRED_X0)
    assert rounded.dtype == torch.bfloat16
    assert torch.allclose(rounded.float(), logits, atol=0.05 * logits.abs().max().item())


def call(x_t: Tensor, timesteps: Tensor, pred_x0: Tensor | None = None, std: float | None = None) -> Tensor:
    return tiny_encoder(std)(x_t, timesteps, pred_x0)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((X_T[..., :8, :8], T), "x_t must have the classifier's 16x16 pixels. Got 8x8"),
        ((torch.zeros(3, 3, 16, 32), T), "16x16 pixels. Got 16x32"),
        ((X_T[:, :1], T), r"x_t must be \(B, 3, 16, 16\). Got shape \(3, 1, 16, 16\)"),
        ((X_T[0], T), r"x_t must be \(B, 3, 16, 16\). Got shape \(3, 16, 16\)"),
        ((X_T, T[:2]), r"timesteps must be one per image, \(3,\). Got shape \(2,\)"),
        ((X_T, torch.tensor(5)), r"timesteps must be one per image, \(3,\). Got shape \(\)"),
        ((X_T, T, PRED_X0), r"the noisy form takes no pred_x0. Got one of shape \(3, 3, 16, 16\)"),
        ((X_T, T.float()), "timesteps must be an int64 tensor .* Got torch.float32"),
        ((X_T, 5), "timesteps must be an int64 tensor .* Got 5"),
        ((X_T.byte(), T), "x_t must be a floating point tensor .* Got torch.uint8"),
        ((X_T, T, PRED_X0[:1], 0.1), r"pred_x0 must be like x_t, \(3, 3, 16, 16\). Got \(1, 3, 16, 16\)"),
        ((X_T, T, None, 0.1), "the denoise-augmented form needs pred_x0. Got None"),
    ],
)
def test_inputs_that_do_not_fit(inputs, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call(*inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_out_channels": (32, 32, 32)}, "down_block_types must be as many as block_out_channels=.*Got"),
        ({"sample_size": 15}, "sample_size must be a multiple of the strides, 2. Got 15"),
        ({"sample_size": 16.0}, "sample_size must be an integer. Got 16.0"),
        ({"num_classes": 0}, "num_classes must be at least 1. Got 0"),
        ({"dropout": float("nan")}, r"dropout must be in \[0, 1\). Got nan"),
        ({"denoised_input": None}, "denoised_input must be True or False. Got None"),
        ({"block_out_channels": (32, "32")}, "block_out_channels must be an integer. Got '32'"),
        ({"block_out_channels": ()}, r"block_out_channels must be widths, one at least. Got \(\)"),
        ({"attention_head_dim": 24}, "attention_head_dim must divide the last width, 32. Got 24"),
    ],
)
def test_configurations_that_do_not_fit(options, message):
    config = {"sample_size": 16, "block_out_channels": (32, 32), "attention_head_dim": 16}
    with pytest.raises((TypeError, ValueError), match=message), torch.device("meta"):
        GuidanceEncoder(**{**config, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), **options})


def test_the_denoise_augmented_form_is_made_once():
    with pytest.raises(ValueError, match="must be of the noisy form. Got the denoise-augmented one"):
        tiny_encoder(0.1).with_denoised_input()
