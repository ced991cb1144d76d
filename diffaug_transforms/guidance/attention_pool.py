"""Attention that pools a map to one vector: the head of guidance classifiers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class AttentionPool(nn.Module):
    """CLIP's attention pool, as ``AttentionPool2d`` of ``guided-diffusion``: the mean of the map asks the map.

    Args:
        width: channels of the map.
        positions: its pixels.
        head_dim: width of a head.
        outputs: K.
    """

    def __init__(self, width: int, positions: int, head_dim: int, outputs: int) -> None:
        super().__init__()
        if width % head_dim:
            raise ValueError(f"attention_head_dim must divide the last width, {width}. Got {head_dim}")
        self.heads = width // head_dim
        self.positional_embedding = nn.Parameter(torch.randn(width, positions + 1) / width**0.5)
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K)."""
        pixels = features.flatten(2)
        tokens = torch.cat([pixels.mean(2, keepdim=True), pixels], dim=2) + self.positional_embedding
        # Packed as (3, heads, head_dim): OpenAI's new order, whatever the order in the blocks.
        packed = self.qkv_proj(tokens.transpose(1, 2)).unflatten(2, (3, self.heads, -1))
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        return self.c_proj(scaled_dot_product_attention(query[:, :, :1], key, value).flatten(1))
