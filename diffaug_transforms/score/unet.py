"""What stock diffusers cannot say of OpenAI's U-Nets: a number of heads, an odd first width, scaled timesteps.

And of NCSN++'s: that they pickle.

Imports diffusers, so the package imports this module only when a network is built.
"""

from __future__ import annotations

import inspect
from functools import partial
from types import FunctionType
from typing import Any

# DDPMPipeline.from_pretrained looks for ModelMixin in the module of a network that is not diffusers' own.
from diffusers import ModelMixin, UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import downsample_2d
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import upsample_2d
from torch import Tensor

__all__ = ["ModelMixin", "OpenAIUNet2DModel", "UNet2DModel", "make_picklable", "set_heads", "unpack_attention"]

#: NCSN++'s, the one that diffusers has (Song et al. 2021, ``fir_kernel`` in their configurations).
FIR_KERNEL = (1, 3, 3, 1)


class OpenAIUNet2DModel(UNet2DModel):
    """``UNet2DModel`` with four more configuration keys; everything else is diffusers'.

    Args:
        model_channels: width of the time embedding's input (ADM-512, whose first block is half as wide); None: the
            first block's width.
        num_heads: attention heads, whatever the width (ADM-128, Improved-DDPM); None: width / attention_head_dim.
        num_heads_upsample: the same for the decoder; None: num_heads.
        timestep_scale: factor on the timesteps (Improved-DDPM's rescale_timesteps: 1000 / T).
        unet_config: all that ``UNet2DModel`` takes.
    """

    def __init__(
        self,
        model_channels: int | None = None,
        num_heads: int | None = None,
        num_heads_upsample: int | None = None,
        timestep_scale: float = 1.0,
        **unet_config: Any,
    ) -> None:
        if model_channels is not None:
            unet_config["time_embedding_dim"] = 4 * model_channels
        super().__init__(**unet_config)
        self.register_to_config(
            model_channels=model_channels,
            num_heads=num_heads,
            num_heads_upsample=num_heads_upsample,
            timestep_scale=timestep_scale,
        )
        if model_channels is not None:
            self.time_proj = Timesteps(model_channels, self.config["flip_sin_to_cos"], self.config["freq_shift"])
            self.time_embedding = TimestepEmbedding(model_channels, 4 * model_channels)
        if num_heads is not None:
            for name, module in self.named_modules():
                if isinstance(module, Attention):
                    in_decoder = name.startswith("up_blocks")
                    set_heads(module, (num_heads_upsample or num_heads) if in_decoder else num_heads)

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        """The keys diffusers accepts from a saved configuration: the parent's too, which we only forward."""
        own, parent = (set(inspect.signature(c.__init__).parameters) for c in (input_class, UNet2DModel))  # type: ignore[misc]
        return (own | parent) - {"unet_config"}

    def forward(self, sample: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().forward(sample, timestep * self.config["timestep_scale"], *args, **kwargs)


def set_heads(attention: Attention, heads: int) -> None:
    """Split the same projections over another number of heads."""
    width = attention.inner_dim
    if width % heads:
        raise ValueError(f"the number of heads must divide the attention's width {width}. Got {heads}")
    attention.heads = attention.sliceable_head_dim = heads
    attention.scale = (width // heads) ** -0.5


def make_picklable(unet: UNet2DModel) -> None:
    """Put the functions themselves where diffusers has lambdas around them: the FIR resampling of NCSN++'s blocks."""
    for block in unet.modules():
        if isinstance(block, ResnetBlock2D):
            for name, function in (("upsample", upsample_2d), ("downsample", downsample_2d)):
                if isinstance(getattr(block, name), FunctionType):
                    setattr(block, name, partial(function, kernel=FIR_KERNEL))


def unpack_attention(packed: Tensor, heads: int, legacy_order: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of OpenAI's packed ``qkv`` weight (3C, C) or bias (3C,).

    The legacy order packs head by head, (heads, 3, head_dim, ...); the new order packs (3, heads, head_dim, ...)
    (guided-diffusion ``unet.py``, QKVAttentionLegacy and QKVAttention).
    """
    rest = packed.shape[1:]
    if not legacy_order:
        query, key, value = packed.chunk(3)
        return query, key, value
    by_head = packed.reshape(heads, 3, -1, *rest)
    query, key, value = (by_head[:, i].reshape(-1, *rest) for i in range(3))
    return query, key, value
