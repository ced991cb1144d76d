"""Checkpoints of yang-song/score_sde_pytorch: the variance-preserving DDPM++ networks (DiffPure's CIFAR-10 network).

``vp/cifar10_ddpmpp_continuous`` and ``vp/cifar10_ddpmpp_deep_continuous``, files such as ``checkpoint_8.pth``. The
averaged weights are taken. Everything is read off the weights: width, number of blocks, image channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import check_finite, load_pickle, load_strictly, reading
from .network import ScoreNetwork
from .schedule import NoiseSchedule

#: Parts of a residual block and of an attention block, and diffusers' names for them.
BLOCK = {
    "GroupNorm_0": "norm1",
    "GroupNorm_1": "norm2",
    "Conv_0": "conv1",
    "Conv_1": "conv2",
    "Conv_2": "conv_shortcut",
    "Dense_0": "time_emb_proj",
}
ATTENTION = {"GroupNorm_0": "group_norm", "NIN_0": "to_q", "NIN_1": "to_k", "NIN_2": "to_v", "NIN_3": "to_out.0"}
PREFIX = "module.all_modules."
#: Widths as multiples of the first, at 32, 16, 8 and 4 pixels. Attention is at 16 pixels.
MULTIPLIERS, ATTENDED = (1, 2, 2, 2), 1
#: The noise's rate at time 0 and 1 (Song et al. 2021, appendix C).
BETA_MIN, BETA_MAX, NUM_TIMESTEPS = 0.1, 20.0, 1000


def read_score_sde(path: Path) -> dict[str, Tensor] | None:
    """The averaged weights of a checkpoint under their names in the file, or None if it is no score_sde checkpoint.

    OSError if the file is damaged, or its averages do not fit its weights.
    """
    with reading(path, "is damaged, incomplete or no checkpoint. Download it again"):
        checkpoint = load_pickle(path)
    if not isinstance(checkpoint, dict) or not {"model", "ema"} <= set(checkpoint):
        return None
    with reading(path, "is no checkpoint of score_sde"):
        weights = {name: value for name, value in checkpoint["model"].items() if name.startswith(PREFIX)}
        averages = checkpoint["ema"]["shadow_params"]
        if [value.shape for value in weights.values()] != [value.shape for value in averages]:
            raise ValueError("its averaged weights do not fit its weights")
        state = {name: value.detach().float() for name, value in zip(weights, averages)}
    check_finite(state, path)
    return state


def convert_score_sde(state: dict[str, Tensor], path: Path) -> ScoreNetwork:
    """The network of ``read_score_sde``'s weights, frozen and in eval mode.

    Its schedule has the noise of the SDE at the times (t + 1) / 1000, of which the network is told 999 times as much.
    OSError if it is no DDPM++ network for 32 pixels.
    """
    from .unet import build_unet

    with reading(path, "is no DDPM++ network of score_sde"):
        width, channels = state[f"{PREFIX}2.weight"].shape[:2]
        count = 1 + max(int(name.removeprefix(PREFIX).partition(".")[0]) for name in state)
        # Without blocks there are 19 modules. A block at each level adds one down and one up, and one attention.
        blocks, rest = divmod(count - 19, 2 * len(MULTIPLIERS) + 1)
        if rest or blocks < 1:
            raise ValueError(f"it has {count} modules, which no number of blocks gives")
        unet = build_unet(unet_config(width, channels, blocks), path)
        paths = [*module_paths(blocks)]
        converted = dict(convert_entry(paths, name, value) for name, value in state.items())
    load_strictly(unet, converted, path, "a DDPM++ network for 32 pixels", state)
    network = ScoreNetwork(unet, sde_schedule())
    return network.requires_grad_(False).eval()


def sde_schedule() -> NoiseSchedule:
    """alphas_cumprod = exp(-integral of the rate up to (t + 1) / 1000) (Song et al. 2021, eq. 29)."""
    time = torch.arange(NUM_TIMESTEPS + 1, dtype=torch.float64) / NUM_TIMESTEPS
    integral = BETA_MIN * time + (BETA_MAX - BETA_MIN) * time**2 / 2
    return NoiseSchedule(1 - torch.exp(-integral.diff()))


def unet_config(width: int, channels: int, blocks: int) -> dict[str, Any]:
    """The source's ``cifar10_ddpmpp_continuous`` (4 blocks) and ``cifar10_ddpmpp_deep_continuous`` (8)."""
    levels = range(len(MULTIPLIERS))
    down, up = (
        [f"Attn{name}Block2D" if level == ATTENDED else f"Resnet{name}sampleBlock2D" for level in levels]
        for name in ("Down", "Up")
    )
    return {
        "sample_size": 32,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": [width * multiplier for multiplier in MULTIPLIERS],
        "layers_per_block": blocks,
        "down_block_types": down,
        "up_block_types": up[::-1],
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "attention_head_dim": None,
        "norm_num_groups": min(width // 4, 32),
        "norm_eps": 1e-6,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "dropout": 0.1,
        "timestep_offset": 1.0,
        "timestep_scale": 0.999,
        "skip_rescale": True,
    }


def module_paths(blocks: int) -> Iterator[str]:
    """diffusers' names of the source's ``all_modules``, in their order."""
    levels = len(MULTIPLIERS)
    yield from ("time_embedding.linear_1", "time_embedding.linear_2", "conv_in")
    for level in range(levels):
        for block in range(blocks):
            yield f"down_blocks.{level}.resnets.{block}"
            if level == ATTENDED:
                yield f"down_blocks.{level}.attentions.{block}"
        if level < levels - 1:
            yield f"down_blocks.{level}.downsamplers.0"
    yield from ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1")
    for level in reversed(range(levels)):
        place = f"up_blocks.{levels - 1 - level}"
        yield from (f"{place}.resnets.{block}" for block in range(blocks + 1))
        if level == ATTENDED:
            yield f"{place}.attentions.{blocks}"
        if level > 0:
            yield f"{place}.upsamplers.0"
    yield from ("conv_norm_out", "conv_out")


def convert_entry(paths: list[str], name: str, value: Tensor) -> tuple[str, Tensor]:
    """A weight's name in diffusers' module, and its value, which is transposed if it is one of ``NIN``."""
    index, *parts = name.removeprefix(PREFIX).split(".")
    place = paths[int(index)]
    if len(parts) == 1:
        return f"{place}.{parts[0]}", value
    inner = (ATTENTION if ".attentions." in place else BLOCK)[parts[0]]
    kind = {"W": "weight", "b": "bias"}.get(parts[1], parts[1])
    return f"{place}.{inner}.{kind}", value.T.contiguous() if parts[1] == "W" else value
