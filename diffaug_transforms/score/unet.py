"""diffusers' UNet2DModel, extended in two ways: OpenAIUNet2DModel has what OpenAI's checkpoints need, a fixed number of
heads, a different first width and rescaled timesteps, and score_sde's rescaled skips; PackedUNet2DModel works on blocks
of pixels, for less cost.

It imports diffusers, so the package imports this module only when a network is built.
"""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import torch

# DDPMPipeline.from_pretrained looks for ModelMixin in the module of a network that is not diffusers' own.
from diffusers import ModelMixin, UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from .configs import check_unet_config

__all__ = ["ModelMixin", "OpenAIUNet2DModel", "PackedUNet2DModel", "UNet2DModel", "build_unet", "set_heads"]

#: The keys of OpenAIUNet2DModel and of PackedUNet2DModel that UNet2DModel lacks.
OWN_KEYS = {
    *("model_channels", "num_heads", "num_heads_upsample", "timestep_scale"),
    *("timestep_offset", "skip_rescale"),
}
PACKED_KEYS = {"patch_size"}


def build_unet(config: dict[str, Any], source: Path | str) -> UNet2DModel:
    """The network of a configuration, on the meta device: no memory and no random numbers for its weights.

    Args:
        config: arguments of ``UNet2DModel`` and of one of the classes below. Other entries are left out.
        source: what errors call the configuration.

    Raises:
        ValueError: a value is not supported, or the values do not fit each other.
    """
    check_unet_config(config, source)
    known = set(inspect.signature(UNet2DModel.__init__).parameters) - {"self"} | OWN_KEYS | PACKED_KEYS
    arguments = {key: value for key, value in config.items() if key in known}
    extended, packed = OWN_KEYS & set(arguments), PACKED_KEYS & set(arguments)
    if extended and packed:
        raise ValueError(f"{source} must have patch_size or OpenAI's keys, not both. Got {sorted(extended | packed)}")
    kind = OpenAIUNet2DModel if extended else PackedUNet2DModel if packed else UNet2DModel
    try:
        with torch.device("meta"):
            return kind(**arguments)
    except Exception as error:
        raise ValueError(f"{source} describes no network that can be built: {error}") from error


class OpenAIUNet2DModel(UNet2DModel):
    """``UNet2DModel`` with six more configuration keys; everything else is diffusers'.

    Args:
        model_channels: width of the time embedding's input (ADM-512, whose first block is half as wide); None: the
            first block's width.
        num_heads: attention heads, whatever the width (ADM-128, Improved-DDPM); None: width / attention_head_dim.
        num_heads_upsample: the same for the decoder; None: num_heads.
        timestep_scale: factor on the timesteps (Improved-DDPM's rescale_timesteps: 1000 / T).
        timestep_offset: added to the timesteps before that (score_sde: 1).
        skip_rescale: as score_sde's DDPM++ (Song et al. 2021, appendix H): sums of a block and its skip are divided by
            sqrt(2), resampling blocks have a convolution on their skip, and a level of the decoder has one attention.
        unet_config: all that ``UNet2DModel`` takes.
    """

    def __init__(
        self,
        model_channels: int | None = None,
        num_heads: int | None = None,
        num_heads_upsample: int | None = None,
        timestep_scale: float = 1.0,
        timestep_offset: float = 0.0,
        skip_rescale: bool = False,
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
            timestep_offset=timestep_offset,
            skip_rescale=skip_rescale,
        )
        if model_channels is not None:
            self.time_proj = Timesteps(model_channels, self.config["flip_sin_to_cos"], self.config["freq_shift"])
            self.time_embedding = TimestepEmbedding(model_channels, 4 * model_channels)
        if num_heads is not None:
            for name, module in self.named_modules():
                if isinstance(module, Attention):
                    in_decoder = name.startswith("up_blocks")
                    set_heads(module, (num_heads_upsample or num_heads) if in_decoder else num_heads)
        if skip_rescale:
            rescale_skips(self)

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        """The keys diffusers accepts from a saved configuration: the parent's too, which we only forward."""
        own, parent = (set(inspect.signature(c.__init__).parameters) for c in (input_class, UNet2DModel))  # type: ignore[misc]
        return (own | parent) - {"unet_config"}

    def forward(self, sample: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Any:
        timestep = (timestep + self.config["timestep_offset"]) * self.config["timestep_scale"]
        return super().forward(sample, timestep, *args, **kwargs)


def rescale_skips(unet: nn.Module) -> None:
    """Make a U-Net's blocks those of score_sde's ``layerspp.py``, in place."""
    for module in list(unet.modules()):
        if isinstance(module, nn.GroupNorm):
            module.num_groups = min(module.num_channels // 4, 32)
        if isinstance(module, Attention):
            module.rescale_output_factor = math.sqrt(2)
        if isinstance(module, ResnetBlock2D):
            module.output_scale_factor = math.sqrt(2)
            if module.conv_shortcut is None and (module.up or module.down):
                module.conv_shortcut = nn.Conv2d(module.in_channels, module.out_channels, 1)
    for block in unet.up_blocks:  # type: ignore[union-attr]
        attentions: Any = getattr(block, "attentions", ())
        for index in range(len(attentions) - 1):
            attentions[index] = nn.Identity()


class PackedUNet2DModel(UNet2DModel):
    """``UNet2DModel`` on blocks of pixels: a block is one position, and its pixels are channels there.

    At patch_size 2 every map has a quarter of the positions, so a network of the same widths takes about a quarter of
    the operations. FFDNet packs images like this (Zhang et al. 2018, sec. III-A), and pixel-shuffle unpacks them (Shi
    et al. 2016).

    Args:
        patch_size: side of a block in pixels.
        in_channels, out_channels: of the images, not of the blocks.
        unet_config: all else that ``UNet2DModel`` takes.
    """

    def __init__(self, patch_size: int = 2, in_channels: int = 3, out_channels: int = 3, **unet_config: Any) -> None:
        area = patch_size**2
        super().__init__(in_channels=in_channels * area, out_channels=out_channels * area, **unet_config)
        self.register_to_config(patch_size=patch_size, in_channels=in_channels, out_channels=out_channels)

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        """As OpenAIUNet2DModel's."""
        return OpenAIUNet2DModel._get_init_keys(input_class)

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None, **kwargs: Any) -> Any:
        """As ``UNet2DModel.forward``; the sample's sides must be multiples of patch_size."""
        packed = super().forward(pixel_unshuffle(sample, self.config["patch_size"]), timestep, class_labels, **kwargs)
        if isinstance(packed, UNet2DOutput):
            return UNet2DOutput(sample=pixel_shuffle(packed.sample, self.config["patch_size"]))
        return (pixel_shuffle(packed[0], self.config["patch_size"]),)


def set_heads(attention: Attention, heads: int) -> None:
    """Split the same projections over another number of heads."""
    width = attention.inner_dim
    if width % heads:
        raise ValueError(f"the number of heads must divide the attention's width {width}. Got {heads}")
    attention.heads = attention.sliceable_head_dim = heads
    attention.scale = (width // heads) ** -0.5
