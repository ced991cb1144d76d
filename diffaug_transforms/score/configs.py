"""What a configuration may say of a U-Net, in a folder or on a module: explicit tables of classes, words and sizes.

They are checked before anything is built. The limits are far above the largest published networks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..arguments import as_integer, as_optional_integer
from ..files import Rule, boolean, check_entries, integer, number, one_of, optional, several
from .functional import PREDICTION_TYPES, VARIANCE_TYPES

UNETS = ("UNet2DModel", "OpenAIUNet2DModel", "PackedUNet2DModel")
MAX_CHANNELS = 64
MAX_CLASSES = 1_000_000
MAX_SIDE = 8192
MAX_TIMESTEPS = 100_000
MAX_WIDTH = 8192
DOWN_BLOCKS = (
    *("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"),
    *("UNetResDownBlock2D", "UNetResAttnDownBlock2D"),  # their names in old files
)
UP_BLOCKS = (
    *("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"),
    *("UNetResUpBlock2D", "UNetResAttnUpBlock2D"),
)
SIDE, CHANNELS, WIDTH = integer(1, MAX_SIDE), integer(1, MAX_CHANNELS), integer(1, MAX_WIDTH)
#: The arguments of a network with 2D blocks.
BLOCK_RULES: dict[str, Rule] = {
    "in_channels": CHANNELS,
    "block_out_channels": several(WIDTH, 12),
    "down_block_types": several(one_of(*DOWN_BLOCKS), 12),
    "layers_per_block": integer(1, 16),
    "dropout": number(0, 1),
    "norm_num_groups": optional(integer(1, 1024)),  # null in NCSN++'s files
    "downsample_type": one_of("conv", "resnet", None),
    "resnet_time_scale_shift": one_of("default", "scale_shift"),
    "model_channels": optional(WIDTH),
}
#: All arguments of ``UNet2DModel`` and of its subclasses in unet.py.
UNET_RULES: dict[str, Rule] = BLOCK_RULES | {
    "sample_size": (
        lambda value: value is None or SIDE[0](value) or (several(SIDE, 2)[0](value) and len(value) == 2),
        f"the side of the training images in pixels, {SIDE[1]} (the noise is matched to it), or null for any size",
    ),
    "out_channels": integer(1, 2 * MAX_CHANNELS),
    "up_block_types": several(one_of(*UP_BLOCKS), 12),
    "mid_block_type": one_of("UNetMidBlock2D", None),
    "act_fn": one_of("silu", "swish", "mish", "gelu", "relu"),
    "upsample_type": one_of("conv", "resnet", None),
    "time_embedding_type": one_of("positional", "fourier", "learned"),
    "time_embedding_dim": optional(integer(1, 8 * MAX_WIDTH)),
    "freq_shift": number(0, 1),
    "downsample_padding": integer(0, 1),
    "mid_block_scale_factor": number(1e-6, 1e6),
    "norm_eps": number(1e-12, 1),
    "attention_head_dim": optional(WIDTH),
    "attn_norm_num_groups": optional(integer(1, 1024)),
    "num_class_embeds": optional(integer(1, MAX_CLASSES)),
    # diffusers' other ways to embed labels take none in 0...K-1.
    "class_embed_type": one_of(None),
    "num_train_timesteps": optional(integer(1, MAX_TIMESTEPS)),
    "num_heads": optional(WIDTH),
    "num_heads_upsample": optional(WIDTH),
    "timestep_scale": number(1e-6, 1e6),
    "timestep_offset": number(-1e6, 1e6),
    "patch_size": integer(1, 16),
    **dict.fromkeys(("center_input_sample", "flip_sin_to_cos", "add_attention", "skip_rescale"), boolean()),
}
#: ``score_network.json``: ``ScoreNetwork``'s arguments that diffusers has no names for.
EXTRAS_RULES: dict[str, Rule] = {
    "null_class": optional(integer(0, MAX_CLASSES)),
    "guidance_scale": number(-1000, 1000),
    "plain": boolean(),
    "prediction_type": one_of(*PREDICTION_TYPES),
    "variance_type": one_of(*VARIANCE_TYPES),
}


def check_unet_config(config: dict[str, Any], source: Path | str) -> None:
    """ValueError that names ``source``, the key and the value unless the configuration is one that is supported."""
    check_entries(config, UNET_RULES, source)
    levels = len(config.get("block_out_channels", range(4)))
    for key in ("down_block_types", "up_block_types"):
        if len(config.get(key, range(4))) != levels:
            raise ValueError(f"{source}: {key} must be as many as block_out_channels, {levels}. Got {config.get(key)}")
    channels, outputs = config.get("in_channels", 3), config.get("out_channels", 3)
    if outputs not in (channels, 2 * channels):
        raise ValueError(
            f"{source}: out_channels must be in_channels, {channels}, or twice that (learned variance). Got {outputs}"
        )


def check_extras(extras: dict[str, Any], source: Path) -> None:
    """ValueError unless the entries are known and in range."""
    unknown = sorted(set(extras) - set(EXTRAS_RULES))
    if unknown:
        raise ValueError(f"{source}: its entries must be some of {sorted(EXTRAS_RULES)}. Got {unknown[:5]}")
    check_entries(extras, EXTRAS_RULES, source)


def check_config(unet: nn.Module, variance_type: str) -> Any:
    """The network's ``config``. ValueError unless it says what is needed and fits ``variance_type``."""
    config: Any = getattr(unet, "config", None)
    missing = [name for name in ("in_channels", "sample_size") if not hasattr(config, name)]
    if missing:
        raise ValueError(
            "unet must have a config with in_channels and sample_size (the side of its images in pixels, None for any "
            "size), such as unet.config = types.SimpleNamespace(in_channels=3, sample_size=32). "
            f"Got a {type(unet).__name__} without {' and '.join(missing)}"
        )
    as_integer("in_channels", config.in_channels, 1)
    for side in config.sample_size if isinstance(config.sample_size, (tuple, list)) else [config.sample_size]:
        as_optional_integer("sample_size", side, 1)
    if getattr(config, "class_embed_type", None) is not None:
        raise ValueError(f"class_embed_type must be None: labels in 0...K-1. Got {config.class_embed_type!r}")
    channels = config.in_channels
    outputs = getattr(config, "out_channels", None)
    if outputs not in (None, channels, 2 * channels):
        raise ValueError(f"out_channels must be in_channels, {channels}, or twice that. Got {outputs}")
    if variance_type == "learned_range" and outputs == channels:
        raise ValueError(f"variance_type 'learned_range' needs {2 * channels} out_channels. Got {outputs}")
    return config
