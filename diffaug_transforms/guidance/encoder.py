"""The network of guidance classifiers: a U-Net's encoder that knows the time, pooled by attention to logits.

x_t (and pred_x0) --input convolutions, down blocks, mid block--> map --attention pool--> logits
 [-1, 1] + noise                   timesteps
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, get_down_block
from torch import Tensor, nn

from .attention_pool import AttentionPool

#: Standard deviation of the weights that the denoised image starts with; a convolution's usual start on three channels
#: has 0.11, so the answers of a trained classifier move by about a hundredth.
DENOISED_INPUT_STD = 1e-3
#: Of OpenAI's group norms.
NORM_EPS = 1e-5


class GuidanceEncoder(ModelMixin, ConfigMixin):
    """``EncoderUNetModel`` of ``guided-diffusion`` with attention pooling, in diffusers' blocks and parameter names.

    Its defaults are OpenAI's (``classifier_defaults`` in script_util.py) for 64 pixels. ``save_pretrained`` and
    ``from_pretrained`` are diffusers'.

    Args:
        sample_size: side of its images in pixels, which the pool's position embedding fixes; a multiple of the strides.
        in_channels: of the images.
        num_classes: K.
        block_out_channels: widths of the levels, each half the size of the one before.
        down_block_types: of the levels: ``"AttnDownBlock2D"`` with attention; without it ``"ResnetDownsampleBlock2D"``
            or, where ``downsample_type`` is ``"conv"``, ``"DownBlock2D"``.
        layers_per_block: residual blocks a level.
        attention_head_dim: width of a head, in the blocks and in the pool.
        downsample_type: ``"resnet"`` (OpenAI's resblock_updown) or ``"conv"``.
        resnet_time_scale_shift: how the time enters: ``"scale_shift"`` or ``"default"`` (added).
        model_channels: width of the time embedding's input; None: the first of ``block_out_channels``.
        norm_num_groups: groups of the group norms.
        dropout: in the residual blocks.
        denoised_input: the denoise-augmented form, with a second input convolution, for the denoised image; its
            weights start at ``DENOISED_INPUT_STD``.

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
        first, last = block_out_channels[0], block_out_channels[-1]
        stride = 2 ** (len(block_out_channels) - 1)
        if len(down_block_types) != len(block_out_channels):
            raise ValueError(f"down_block_types must be as many as {block_out_channels=}. Got {down_block_types}")
        if sample_size % stride:
            raise ValueError(f"sample_size must be a multiple of the strides, {stride}. Got {sample_size}")
        width = model_channels or first
        self.conv_in = nn.Conv2d(in_channels, first, 3, padding=1)
        if denoised_input:
            # Its sum with conv_in's output needs no second bias.
            self.conv_in_denoised = nn.Conv2d(in_channels, first, 3, padding=1, bias=False)
            nn.init.normal_(self.conv_in_denoised.weight, std=DENOISED_INPUT_STD)
        self.time_proj = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(width, 4 * width)
        self.down_blocks, self.mid_block = blocks_of(self.config, 4 * width)
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, last, eps=NORM_EPS)
        self.conv_act = nn.SiLU()
        self.pool = AttentionPool(last, (sample_size // stride) ** 2, attention_head_dim, num_classes)

    def forward(self, x_t: Tensor, timesteps: Tensor, pred_x0: Tensor | None = None) -> Tensor:
        """Logits (B, K), in the network's dtype.

        Args:
            x_t: (B, C, H, W), noisy images on the [-1, 1] scale, H and W the ``sample_size``.
            timesteps: int64 (B,).
            pred_x0: like x_t, the denoised image in [-1, 1]: for the denoise-augmented form, and only for it.

        Raises:
            ValueError: images of another size or number of channels, timesteps not one per image, ``pred_x0`` missing
                or given to the noisy form.
        """
        self.check_inputs(x_t, timesteps)
        if (pred_x0 is not None) != self.config["denoised_input"]:
            raise ValueError(
                "the denoise-augmented form needs pred_x0. Got None"
                if pred_x0 is None
                else f"the noisy form takes no pred_x0. Got one of shape {tuple(pred_x0.shape)}"
            )
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
        """ValueError unless x_t is (B, C, H, W) of this network's channels and size, and timesteps (B,)."""
        channels, size = self.config["in_channels"], self.config["sample_size"]
        if x_t.ndim != 4 or x_t.shape[1] != channels:
            raise ValueError(f"x_t must be (B, {channels}, {size}, {size}). Got shape {tuple(x_t.shape)}")
        if x_t.shape[2:] != (size, size):
            raise ValueError(f"x_t must have the classifier's {size}x{size} pixels. Got {x_t.shape[2]}x{x_t.shape[3]}")
        if timesteps.shape != x_t.shape[:1]:
            raise ValueError(f"timesteps must be one per image, ({len(x_t)},). Got shape {tuple(timesteps.shape)}")

    def with_denoised_input(self, generator: torch.Generator | None = None) -> GuidanceEncoder:
        """The denoise-augmented form of this noisy classifier: a copy, whose answers start out nearly the same.

        Args:
            generator: source of the new weights; None: torch's global one of the weights' device.

        Example:
            >>> noisy = GuidanceEncoder(16, 3, 10, (32,), ("AttnDownBlock2D",), attention_head_dim=16)
            >>> x_t, timesteps = torch.randn(2, 3, 16, 16), torch.tensor([0, 999])
            >>> noisy.with_denoised_input()(x_t, timesteps, x_t.clamp(-1, 1)).shape
            torch.Size([2, 10])
        """
        if self.config["denoised_input"]:
            raise ValueError("the classifier must be of the noisy form. Got the denoise-augmented one")
        state = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        weight = state["conv_in.weight"]
        source = generator.device if generator is not None else weight.device
        new = DENOISED_INPUT_STD * torch.randn(weight.shape, generator=generator, device=source)
        # Not from_config, which takes arguments that were given by place for defaults.
        config = {name: value for name, value in self.config.items() if not name.startswith("_")}
        with torch.device("meta"):  # no memory and no random numbers for weights that are replaced
            augmented = GuidanceEncoder(**config | {"denoised_input": True})
        augmented.load_state_dict(state | {"conv_in_denoised.weight": new.to(weight)}, assign=True)
        return augmented.train(self.training)


def blocks_of(config: Any, time_width: int) -> tuple[nn.ModuleList, nn.Module]:
    """The down blocks and the mid block, as ``UNet2DModel`` has them."""
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
