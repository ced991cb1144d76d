"""The network of guidance classifiers: the encoder of a U-Net with the timestep as input, and an attention pool.

x_t (and pred_x0) --input convolutions, down blocks, mid block--> map --attention pool--> logits
 [-1, 1] + noise                   timesteps
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, get_down_block
from torch import Tensor, nn

from ..arguments import (
    FLOATS,
    INTEGERS,
    as_integer,
    as_names,
    as_number,
    as_optional_integer,
    check_choice,
    check_flags,
    check_generator,
    check_tensor,
    shown,
)
from ..score.configs import DOWN_BLOCKS

#: Initial standard deviation of the weights for the denoised image. The usual one for three channels is 0.11, so the
#: outputs of a trained classifier change by about one percent.
DENOISED_INPUT_STD = 1e-3
#: OpenAI's group norms have it.
NORM_EPS = 1e-5


class AttentionPool(nn.Module):
    """CLIP's attention pool, as in ``AttentionPool2d`` of ``guided-diffusion``. The query is the mean of the map.

    The map has ``width`` channels and ``positions`` pixels.
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
        return self.c_proj(F.scaled_dot_product_attention(query[:, :, :1], key, value).flatten(1))


class GuidanceEncoder(ModelMixin, ConfigMixin):
    """``EncoderUNetModel`` of ``guided-diffusion`` with attention pooling, in diffusers' blocks and parameter names.

    The defaults are OpenAI's for 64 pixels (``classifier_defaults`` in script_util.py). ``save_pretrained`` and
    ``from_pretrained`` are diffusers'.

    Args:
        sample_size: side of the images in pixels. The position embedding of the pool fixes it. It must be a multiple of
            the strides.
        in_channels: channels of the images.
        num_classes: K.
        block_out_channels: widths of the levels. Each level has half the side of the level before.
        down_block_types: one per level. ``"AttnDownBlock2D"`` has attention. ``"ResnetDownsampleBlock2D"`` and, if
            ``downsample_type`` is ``"conv"``, ``"DownBlock2D"`` have none.
        layers_per_block: residual blocks per level.
        attention_head_dim: width of a head, in the blocks and in the pool.
        downsample_type: ``"resnet"`` (OpenAI's resblock_updown) or ``"conv"``.
        resnet_time_scale_shift: how the timestep enters: ``"scale_shift"`` or ``"default"`` (added).
        model_channels: width of the time embedding's input. None: the first of ``block_out_channels``.
        norm_num_groups: groups of the group norms.
        dropout: in the residual blocks.
        denoised_input: True for the denoise-augmented form, which has a second input convolution for the denoised
            image. The standard deviation of its initial weights is ``DENOISED_INPUT_STD``.

    Raises:
        ValueError: the arguments do not fit each other.

    Example:
        >>> options = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "downsample_type": "conv"}
        >>> encoder = GuidanceEncoder(16, 3, 10, (32, 32), layers_per_block=1, attention_head_dim=16, **options)
        >>> encoder(torch.randn(2, 3, 16, 16), torch.tensor([0, 999])).shape
        torch.Size([2, 10])
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        sample_size: int = 64,
        in_channels: int = 3,
        num_classes: int = 1000,
        block_out_channels: Sequence[int] = (128, 256, 384, 512),
        down_block_types: Sequence[str] = ("ResnetDownsampleBlock2D", *["AttnDownBlock2D"] * 3),
        layers_per_block: int = 2,
        attention_head_dim: int = 64,
        downsample_type: str = "resnet",
        resnet_time_scale_shift: str = "scale_shift",
        model_channels: int | None = None,
        norm_num_groups: int = 32,
        dropout: float = 0.0,
        denoised_input: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"sample_size": sample_size, "in_channels": in_channels, "num_classes": num_classes}
        sizes |= {"layers_per_block": layers_per_block, "attention_head_dim": attention_head_dim}
        for name, value in {**sizes, "norm_num_groups": norm_num_groups}.items():
            as_integer(name, value, 1)
        check_choice("downsample_type", downsample_type, ("resnet", "conv"))
        check_choice("resnet_time_scale_shift", resnet_time_scale_shift, ("scale_shift", "default"))
        as_optional_integer("model_channels", model_channels, 1)
        as_number("dropout", dropout, at_least=0, below=1)
        check_flags(denoised_input=denoised_input)
        if not isinstance(block_out_channels, Sequence) or not block_out_channels:
            raise TypeError(f"block_out_channels must be widths, one at least. Got {shown(block_out_channels)}")
        for width in block_out_channels:
            as_integer("block_out_channels", width, 1)
            if width % norm_num_groups:
                raise ValueError(f"block_out_channels must be multiples of {norm_num_groups=}. Got {width}")
        for kind in as_names("down_block_types", down_block_types):
            check_choice("down_block_types", kind, DOWN_BLOCKS)
        first, last = block_out_channels[0], block_out_channels[-1]
        stride = 2 ** (len(block_out_channels) - 1)
        if len(down_block_types) != len(block_out_channels):
            raise ValueError(f"down_block_types must be as many as {block_out_channels=}. Got {down_block_types}")
        if sample_size % stride:
            raise ValueError(f"sample_size must be a multiple of the strides, {stride}. Got {sample_size}")
        width = model_channels or first
        self.conv_in = nn.Conv2d(in_channels, first, 3, padding=1)
        if denoised_input:
            # Its output is added to conv_in's, so it needs no bias.
            self.conv_in_denoised = nn.Conv2d(in_channels, first, 3, padding=1, bias=False)
            nn.init.normal_(self.conv_in_denoised.weight, std=DENOISED_INPUT_STD)
        self.time_proj = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(width, 4 * width)
        self.down_blocks, self.mid_block = make_blocks(self.config, 4 * width)
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, last, eps=NORM_EPS)
        self.conv_act = nn.SiLU()
        self.pool = AttentionPool(last, (sample_size // stride) ** 2, attention_head_dim, num_classes)

    def forward(self, x_t: Tensor, timesteps: Tensor, pred_x0: Tensor | None = None) -> Tensor:
        """Logits (B, K), in the network's dtype.

        Args:
            x_t: (B, C, H, W), noisy images on the [-1, 1] scale. H and W are the ``sample_size``.
            timesteps: int64 (B,).
            pred_x0: (B, C, H, W), the denoised images in [-1, 1]. The denoise-augmented form needs it, the noisy form
                must not have it.

        Raises:
            ValueError: the arguments are not as above.
        """
        self.check_inputs(x_t, timesteps)
        if pred_x0 is None and self.config["denoised_input"]:
            raise ValueError("the denoise-augmented form needs pred_x0. Got None")
        if pred_x0 is not None and pred_x0.shape != x_t.shape:
            raise ValueError(f"pred_x0 must be like x_t, {tuple(x_t.shape)}. Got {tuple(pred_x0.shape)}")
        if pred_x0 is not None and not self.config["denoised_input"]:
            raise ValueError(f"the noisy form takes no pred_x0. Got one of shape {tuple(pred_x0.shape)}")
        if not len(x_t):
            return x_t.new_zeros(0, self.config["num_classes"], dtype=self.dtype)
        time = self.time_embedding(self.time_proj(timesteps).to(self.dtype))
        features = self.conv_in(x_t.to(self.dtype))
        if pred_x0 is not None:
            features = features + self.conv_in_denoised(pred_x0.to(self.dtype))
        for block in self.down_blocks:
            features, _ = block(features, time)
        features = self.mid_block(features, time)
        return self.pool(self.conv_act(self.conv_norm_out(features)))

    def check_inputs(self, x_t: Tensor, timesteps: Tensor) -> None:
        """Raise ValueError unless x_t is (B, C, H, W) with this network's channels and size, and timesteps (B,)."""
        check_tensor("x_t", x_t, FLOATS, "a floating point tensor (B, C, H, W)")
        check_tensor("timesteps", timesteps, INTEGERS, "an int64 tensor (B,), such as torch.tensor([500])")
        channels, size = self.config["in_channels"], self.config["sample_size"]
        if x_t.ndim != 4 or x_t.shape[1] != channels:
            raise ValueError(f"x_t must be (B, {channels}, {size}, {size}). Got shape {tuple(x_t.shape)}")
        if x_t.shape[2:] != (size, size):
            raise ValueError(f"x_t must have the classifier's {size}x{size} pixels. Got {x_t.shape[2]}x{x_t.shape[3]}")
        if timesteps.shape != x_t.shape[:1]:
            raise ValueError(f"timesteps must be one per image, ({len(x_t)},). Got shape {tuple(timesteps.shape)}")
        if timesteps.device.type == "cpu" and any(t < 0 for t in timesteps.tolist()):
            raise ValueError(f"timesteps must be at least 0. Got {timesteps.tolist()}")

    def with_denoised_input(self, generator: torch.Generator | None = None) -> GuidanceEncoder:
        """A denoise-augmented copy of this noisy classifier. Its outputs are nearly the same at first.

        The new weights are drawn from ``generator``, or from torch's global one of the weights' device.

        Example:
            >>> noisy = GuidanceEncoder(16, 3, 10, (32,), ("AttnDownBlock2D",), attention_head_dim=16)
            >>> x_t, timesteps = torch.randn(2, 3, 16, 16), torch.tensor([0, 999])
            >>> noisy.with_denoised_input()(x_t, timesteps, x_t.clamp(-1, 1)).shape
            torch.Size([2, 10])
        """
        check_generator(generator)
        if self.config["denoised_input"]:
            raise ValueError("the classifier must be of the noisy form. Got the denoise-augmented one")
        state = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        weight = state["conv_in.weight"]
        source = weight.device if generator is None else generator.device
        new = DENOISED_INPUT_STD * torch.randn(weight.shape, generator=generator, device=source)
        # from_config would replace arguments that were given by position by their defaults.
        config = {name: value for name, value in self.config.items() if not name.startswith("_")}
        with torch.device("meta"):  # needs no memory and draws no random numbers for weights that are replaced
            augmented = GuidanceEncoder(**config | {"denoised_input": True})
        augmented.load_state_dict(state | {"conv_in_denoised.weight": new.to(weight)}, assign=True)
        return augmented.train(self.training)


def make_blocks(config: Any, time_width: int) -> tuple[nn.ModuleList, nn.Module]:
    """The down blocks and the mid block, as in ``UNet2DModel``."""
    widths = config["block_out_channels"]
    options = {
        "temb_channels": time_width,
        "dropout": config["dropout"],
        "resnet_eps": NORM_EPS,
        "resnet_act_fn": "silu",
        "resnet_time_scale_shift": config["resnet_time_scale_shift"],
        "resnet_groups": config["norm_num_groups"],
        "attention_head_dim": config["attention_head_dim"],
    }
    down = [
        get_down_block(
            kind,
            num_layers=config["layers_per_block"],
            in_channels=widths[max(level - 1, 0)],
            out_channels=widths[level],
            add_downsample=level < len(widths) - 1,
            downsample_padding=1,
            downsample_type=config["downsample_type"],
            **options,
        )
        for level, kind in enumerate(config["down_block_types"])
    ]
    mid = UNetMidBlock2D(in_channels=widths[-1], attn_groups=config["norm_num_groups"], **options)
    return nn.ModuleList(down), mid
