"""Tiny guidance encoders of 16 pixels and seven classes."""

from __future__ import annotations

from typing import Any

import torch

from diffaug_transforms.guidance import GuidanceEncoder


def tiny_encoder(denoised_input_std: float | None = None, seed: int = 0, **options: Any) -> GuidanceEncoder:
    """The noisy form, or the denoise-augmented one with weights large enough to see what they do."""
    torch.manual_seed(seed)
    config: dict[str, Any] = {
        "num_classes": 7,
        "block_out_channels": (32, 32),
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 16,
    }
    encoder = GuidanceEncoder(16, 3, **{**config, "denoised_input": denoised_input_std is not None, **options})
    if denoised_input_std is not None:
        torch.nn.init.normal_(encoder.conv_in_denoised.weight, std=denoised_input_std)
    return encoder.eval()
