"""OpenAI's checkpoints (improved-diffusion, guided-diffusion) as diffusers U-Nets.

Weights alone do not tell head counts, attention order, schedule or timestep rescaling: their training flags do. The
released files' flags are in ``openai_releases.json``; other files are loaded with ``openai_flags``. The numbers of
classes and of channels are read from the weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files import check_entries, integer, load_strictly, number, read_tensors, reading, several
from ..images import ASSETS
from .configs import MAX_SIDE, MAX_TIMESTEPS, MAX_WIDTH
from .network import ScoreNetwork
from .schedule import BETAS, NoiseSchedule
from .storage import unpack_attention

#: Defaults of ``model_and_diffusion_defaults`` in both repositories' script_util.py, as far as they shape the network.
DEFAULTS: dict[str, Any] = {
    "image_size": 64,
    "num_channels": 128,
    "num_res_blocks": 2,
    "num_heads": 4,
    "num_heads_upsample": -1,
    "num_head_channels": -1,
    "attention_resolutions": "16,8",
    "channel_mult": "",
    "class_cond": False,
    "use_scale_shift_norm": True,
    "resblock_updown": False,
    "use_new_attention_order": False,
    "learn_sigma": False,
    "sigma_small": False,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "predict_xstart": False,
    "rescale_timesteps": None,
}
#: Flags that only guided-diffusion knows; it leaves timesteps alone by default, improved-diffusion rescales them.
GUIDED_FLAGS = {"num_head_channels", "channel_mult", "resblock_updown", "use_fp16", "use_new_attention_order"}
#: Flags of training and sampling, in the same command lines, that say nothing about the network.
OTHER_FLAGS = {
    *("dropout", "use_checkpoint", "use_fp16", "fp16_scale_growth", "timestep_respacing", "use_kl", "use_ddim"),
    *("rescale_learned_sigmas", "batch_size", "microbatch", "num_samples", "clip_denoised", "model_path", "data_dir"),
    *("lr", "lr_anneal_steps", "weight_decay", "ema_rate", "schedule_sampler", "log_interval", "save_interval"),
    *("resume_checkpoint", "classifier_path", "classifier_scale", "classifier_use_fp16", "classifier_width"),
    *("classifier_depth", "classifier_attention_resolutions", "classifier_use_scale_shift_norm"),
    *("classifier_resblock_updown", "classifier_pool"),
}
#: What wrappers put before the names of tensors: DataParallel, torch.compile, Lightning.
PREFIXES = ("module.", "_orig_mod.", "model.")
#: What a command line holds beside flags: how the script is started, and the shell's variables.
COMMAND_WORD = re.compile(
    r"(\S*/)?(python[\d.]*|mpiexec|mpirun|torchrun|srun)|-m|-np?|\d+|\S+\.py|\$\{?\w+\}?|\w+=\S*|export|[$>\\;&]+"
)
#: Flags with their least and their largest value.
FLAG_RULES = {
    "image_size": integer(1, MAX_SIDE),
    "num_channels": integer(1, MAX_WIDTH),
    "num_res_blocks": integer(1, 16),
    "num_heads": integer(1, MAX_WIDTH),
    "num_heads_upsample": integer(-1, MAX_WIDTH),
    "num_head_channels": integer(-1, MAX_WIDTH),
    "diffusion_steps": integer(1, MAX_TIMESTEPS),
}
CHANNEL_MULTIPLIERS = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    32: (1, 2, 2, 2),
}
NUM_CLASSES = 1000
#: OpenAI's names of a block's parts -> diffusers'.
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


def released_flags() -> dict[str, str]:
    """File name -> flags, for the checkpoints that OpenAI released."""
    return json.loads((ASSETS / "openai_releases.json").read_text())


def parse_flags(flags: str | dict[str, Any]) -> dict[str, Any]:
    """OpenAI's flags with their defaults filled in, from a dict or a command line.

    ValueError for flags that neither repository has, for values out of range, and for upsamplers, which take a second
    image.
    """
    given = flags_of_command_line(flags) if isinstance(flags, str) else dict(flags)
    if {"large_size", "small_size"} & set(given):
        raise ValueError("super-resolution upsamplers take a second image and are not supported. Got large_size")
    unknown = sorted(set(given) - set(DEFAULTS) - OTHER_FLAGS)
    if unknown:
        raise ValueError(f"openai_flags must be flags of improved-diffusion or guided-diffusion. Got {unknown}")
    parsed = {name: typed(name, given.get(name, default), default) for name, default in DEFAULTS.items()}
    if parsed["rescale_timesteps"] is None:
        parsed["rescale_timesteps"] = not GUIDED_FLAGS & set(given)
    check_entries(parsed, FLAG_RULES, "openai_flags")
    if parsed["noise_schedule"] not in BETAS:
        raise ValueError(f"noise_schedule must be one of {sorted(BETAS)}. Got {parsed['noise_schedule']!r}")
    return parsed


def flags_of_command_line(line: str) -> dict[str, str]:
    """``--name value`` pairs of a command line, or of shell assignments: ``MODEL_FLAGS="..." DIFFUSION_FLAGS="..."``.

    The line may be whole: ``mpiexec -n 8 python scripts/image_train.py --data_dir images $MODEL_FLAGS``.
    """
    pairs = r"--(\w+)(?:\s*=\s*|\s+)[\"']?(?!--)([^\s\"']+)"
    rest = re.sub(r"[\"']", " ", re.sub(pairs, " ", line)).split()
    found = dict(re.findall(pairs, line))
    if not found or not all(COMMAND_WORD.fullmatch(word) for word in rest):
        raise ValueError(f"openai_flags must be pairs such as '--image_size 256 --class_cond False'. Got {line!r}")
    return found


def typed(name: str, value: Any, default: Any) -> Any:
    """A flag's value in its default's type; OpenAI's booleans are words."""
    if isinstance(default, bool) or name == "rescale_timesteps":
        if value is None or isinstance(value, bool):
            return value
        word = str(value).lower()
        if word not in ("true", "false", "yes", "no", "t", "f", "y", "n", "1", "0"):
            raise ValueError(f"{name} must be True or False. Got {value!r}")
        return word in ("true", "yes", "t", "y", "1")
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    try:
        return type(default)(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be {type(default).__name__}. Got {value!r}") from None


def channel_multipliers(flags: dict[str, Any]) -> tuple[float, ...]:
    if flags["channel_mult"]:
        multipliers = numbers("channel_mult", flags["channel_mult"])
        check_entries({"channel_mult": multipliers}, {"channel_mult": several(number(0.01, 64), 12)}, "openai_flags")
        return multipliers
    if flags["image_size"] not in CHANNEL_MULTIPLIERS:
        raise ValueError(
            f"image_size must be one of {sorted(CHANNEL_MULTIPLIERS)} where channel_mult is not given. "
            f"Got {flags['image_size']}"
        )
    return CHANNEL_MULTIPLIERS[flags["image_size"]]


def numbers(name: str, value: str) -> tuple[float, ...]:
    """The numbers in a flag such as "32,16,8"."""
    try:
        return tuple(float(part) for part in value.split(",") if part.strip())
    except ValueError:
        raise ValueError(f"{name} must be numbers with commas between them. Got {value!r}") from None


def unet_config(flags: dict[str, Any], channels: int = 3, num_classes: int = NUM_CLASSES) -> dict[str, Any]:
    """The diffusers configuration, with ``OpenAIUNet2DModel``'s keys if stock diffusers cannot say it.

    Args:
        flags: what ``parse_flags`` gives.
        channels: of the images. OpenAI's code has no flag for it.
        num_classes: if the flags say class_cond. OpenAI's code has no flag for it.
    """
    widths = tuple(int(flags["num_channels"] * multiplier) for multiplier in channel_multipliers(flags))
    resolutions = numbers("attention_resolutions", flags["attention_resolutions"])
    if not all(r >= 1 for r in resolutions):
        raise ValueError(f"attention_resolutions must be at least 1. Got {flags['attention_resolutions']!r}")
    attended = [2**level in {flags["image_size"] // int(r) for r in resolutions} for level in range(len(widths))]
    kind = "resnet" if flags["resblock_updown"] else "conv"
    down, up = (
        ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if kind == "resnet" else ("DownBlock2D", "UpBlock2D")
    )
    config: dict[str, Any] = {
        "sample_size": flags["image_size"],
        "in_channels": channels,
        "out_channels": 2 * channels if flags["learn_sigma"] else channels,
        "block_out_channels": widths,
        "layers_per_block": flags["num_res_blocks"],
        "down_block_types": tuple("AttnDownBlock2D" if a else down for a in attended),
        "up_block_types": tuple("AttnUpBlock2D" if a else up for a in reversed(attended)),
        "downsample_type": kind,
        "upsample_type": kind,
        "attention_head_dim": flags["num_head_channels"] if flags["num_head_channels"] > 0 else 32,
        "attn_norm_num_groups": 32,
        "resnet_time_scale_shift": "scale_shift" if flags["use_scale_shift_norm"] else "default",
        "num_class_embeds": num_classes if flags["class_cond"] else None,
    }
    return config | openai_keys(flags, widths[0])


def openai_keys(flags: dict[str, Any], first_width: int) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    if flags["num_head_channels"] <= 0:
        keys["num_heads"] = flags["num_heads"]
        if flags["num_heads_upsample"] > 0:
            keys["num_heads_upsample"] = flags["num_heads_upsample"]
    if first_width != flags["num_channels"]:
        keys["model_channels"] = flags["num_channels"]
    if flags["rescale_timesteps"] and flags["diffusion_steps"] != 1000:
        keys["timestep_scale"] = 1000 / flags["diffusion_steps"]
    return keys


def load_openai_checkpoint(path: str | Path, flags: str | dict[str, Any] | None = None) -> ScoreNetwork:
    """A ScoreNetwork (float32) from a file with OpenAI's names of tensors.

    Args:
        path: a ``.pt``, ``.pth`` or ``.ckpt`` file, read with ``weights_only=True``, or a ``.safetensors`` file.
        flags: OpenAI's flags, as a dict or a command line; None for the released file names. They do not say the
            numbers of classes and of channels, which are read from the weights.

    Raises:
        ValueError: flags are missing or wrong. OSError: the file is missing, damaged, or does not fit its flags.
    """
    from .unet import build_unet

    path = Path(path)
    if not path.is_file():
        raise OSError(f"there is no checkpoint at {path}")
    if flags is None:
        flags = released_flags().get(path.name)
    if flags is None:
        raise ValueError(
            f"{path.name} is none of OpenAI's released file names, and weights do not tell the heads, the attention "
            "order, the schedule or the timestep rescaling: pass openai_flags (diffaug convert --flags), the command "
            "line its README prints"
        )
    parsed = parse_flags(flags)
    state = read_tensors(path)
    names = list(state)
    state = without_prefixes(state)
    channels = size_in_file(state, "input_blocks.0.0.weight", 1, 3)
    unet = build_unet(
        unet_config(parsed, channels, size_in_file(state, "label_emb.weight", 0, NUM_CLASSES)), f"{path}, openai_flags"
    )
    with reading(path, "has weights that do not fit openai_flags"):
        state = convert_state_dict(state, unet, not parsed["use_new_attention_order"])
    load_strictly(unet, state, path, "openai_flags", names)
    learned, small = parsed["learn_sigma"], parsed["sigma_small"]
    network = ScoreNetwork(
        unet,
        NoiseSchedule.named(parsed["noise_schedule"], parsed["diffusion_steps"]),
        prediction_type="sample" if parsed["predict_xstart"] else "epsilon",
        variance_type="learned_range" if learned else "fixed_small" if small else "fixed_large",
    )
    return network.requires_grad_(False).eval()


def without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the ``PREFIXES`` that all their names have."""
    while prefix := next((p for p in PREFIXES if state and all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def size_in_file(state: dict[str, Tensor], name: str, dimension: int, default: int) -> int:
    """The length of a tensor's dimension; ``default`` if there is no such tensor."""
    return state[name].shape[dimension] if name in state and state[name].ndim > dimension else default


def convert_state_dict(state: dict[str, Tensor], unet: Any, legacy_order: bool) -> dict[str, Tensor]:
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


def module_names(unet: Any) -> Iterator[tuple[str, str]]:
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
