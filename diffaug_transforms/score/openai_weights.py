"""The names of OpenAI's U-Net parameters in diffusers, walked block by block."""

from __future__ import annotations

from collections.abc import Iterator

from diffusers import UNet2DModel
from torch import Tensor

from .unet import unpack_attention

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "proj_out": "to_out.0"}
SAMPLERS = {"op": "conv", "conv": "conv"}
NAMES = RESNET | ATTENTION | SAMPLERS
ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def convert_state_dict(state: dict[str, Tensor], unet: UNet2DModel, legacy_order: bool) -> dict[str, Tensor]:
    """OpenAI's tensors under the names of ``unet``; names without a place in it are kept, for a strict load to tell."""
    modules = dict(module_names(unet))
    converted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        owner, _, rest = name.rpartition(".")
        block = next((prefix for prefix in modules if owner == prefix or owner.startswith(prefix + ".")), None)
        if block is None:
            converted[name] = tensor
            continue
        target, inner = modules[block], owner[len(block) + 1 :]
        heads = getattr(unet.get_submodule(target), "heads", 0)
        if inner == "qkv" and heads and len(tensor) % (3 * heads) == 0:
            thirds = unpack_attention(tensor.squeeze(-1) if tensor.ndim == 3 else tensor, heads, legacy_order)
            converted.update({f"{target}.to_{letter}.{rest}": third for letter, third in zip("qkv", thirds)})
            continue
        renamed = f"{target}.{NAMES.get(inner, inner)}" if inner else target
        converted[f"{renamed}.{rest}"] = tensor.squeeze(-1) if inner == "proj_out" and tensor.ndim == 3 else tensor
    return converted


def module_names(unet: UNet2DModel) -> Iterator[tuple[str, str]]:
    """OpenAI's name and diffusers' name of every block, in OpenAI's order of construction."""
    yield from ENDS.items()
    number = 1
    for i, block in enumerate(unet.down_blocks):
        for j in range(len(block.resnets)):
            yield f"input_blocks.{number}.0", f"down_blocks.{i}.resnets.{j}"
            if hasattr(block, "attentions"):
                yield f"input_blocks.{number}.1", f"down_blocks.{i}.attentions.{j}"
            number += 1
        if block.downsamplers is not None:
            yield f"input_blocks.{number}.0", f"down_blocks.{i}.downsamplers.0"
            number += 1
    yield "middle_block.0", "mid_block.resnets.0"
    yield "middle_block.1", "mid_block.attentions.0"
    yield "middle_block.2", "mid_block.resnets.1"
    number = 0
    for i, block in enumerate(getattr(unet, "up_blocks", ())):  # guidance classifiers have none
        for j in range(len(block.resnets)):
            yield f"output_blocks.{number}.0", f"up_blocks.{i}.resnets.{j}"
            attended = hasattr(block, "attentions")
            if attended:
                yield f"output_blocks.{number}.1", f"up_blocks.{i}.attentions.{j}"
            if j == len(block.resnets) - 1 and block.upsamplers is not None:
                yield f"output_blocks.{number}.{1 + attended}", f"up_blocks.{i}.upsamplers.0"
            number += 1
