"""Score networks as files: folders in diffusers' layout, files of tensors, and both on the Hugging Face Hub.

A folder holds unet/, scheduler/ and model_index.json.
`score_network.json` holds what diffusers has no names for, such as the null class. diffusers ignores the file.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import add_checksum, load_strictly, read_json, read_tensors, reading, writing
from ..hub import ADVICE, download_folder
from .adapters import DUPLICATE_KEYS, make_picklable, to_diffusers
from .configs import UNETS, check_extras
from .schedule import NoiseSchedule
from .schedulers import read_scheduler

#: The weights' name without its ending, and the endings, the best first.
STEM, ENDINGS = "diffusion_pytorch_model", ("safetensors", "bin")
WEIGHTS = tuple(f"{STEM}.{ending}" for ending in ENDINGS)
METADATA = "score_network.json"
METADATA_PATTERNS = ["*.json", "unet/*.json", "scheduler/*.json"]
#: Parts of an attention block under the names that diffusers gave them before version 0.15.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
#: The pipelines that sample with the schedulers that are written here.
PIPELINES = {
    "DDPMScheduler": "DDPMPipeline",
    "ScoreSdeVeScheduler": "ScoreSdeVePipeline",
    "EDMEulerScheduler": "ConsistencyModelPipeline",  # its loop is EDM's too
    "CMStochasticIterativeScheduler": "ConsistencyModelPipeline",
    "FlowMatchEulerDiscreteScheduler": "DDPMPipeline",
}
#: Parts of a pipeline that show that it works on latents or on text.
FOREIGN_PARTS = {"vae", "vqvae", "text_encoder", "tokenizer", "transformer", "bert", "prior", "movq"}
SUPPORTED = (
    "A pixel-space UNet2DModel with a DDPM, DDIM, ScoreSdeVe, EDM, consistency or flow matching scheduler is needed, "
    "such as google/ddpm-cifar10-32."
)
NETWORK_ADVICE = f"{ADVICE}, or use an embedded network: 'photos', or 'cifar10' for 32 pixels."


def check_sha256(path: Path, expected: str | None) -> None:
    """OSError unless the file's SHA-256 is the expected one; nothing is checked if none is known."""
    if expected is None:
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise OSError(
            f"{path} is damaged or another file: its SHA-256 is {digest.hexdigest()}, expected {expected}. "
            "Delete it and load again, or give the path of a good copy."
        )


def unet_folder(folder: Path) -> Path:
    """Where the U-Net lies: in ``unet/`` (pipelines) or in the folder itself. ValueError for foreign models."""
    index = folder / "model_index.json"
    if index.exists():
        pipeline = read_json(index)
        foreign = sorted(FOREIGN_PARTS & set(pipeline))
        if foreign:
            name = pipeline.get("_class_name", "a pipeline")
            raise ValueError(f"{folder} holds a {name} with {', '.join(foreign)}: not pixel space. {SUPPORTED}")
    for candidate in (folder / "unet", folder):
        config = candidate / "config.json"
        if config.exists():
            name = read_json(config).get("_class_name")
            if name not in UNETS:
                raise ValueError(f"{config}: it holds a {name or 'model of no named class'}. {SUPPORTED}")
            return candidate
    raise ValueError(f"{folder} holds neither unet/config.json nor config.json. {SUPPORTED}")


def weights_files(folder: Path, ending: str, variant: str | None) -> list[str]:
    """Names of the files that hold the weights: the shards that an index names, or else one file.

    Args:
        ending: ``"safetensors"`` or ``"bin"``.
        variant: such as ``"fp16"``, in diffusers' names.

    Raises:
        ValueError: the index names a file outside of the folder.
    """
    middle = "" if variant is None else f".{variant}"
    index = folder / f"{STEM}.{ending}.index{middle}.json"
    if not index.is_file():
        return [f"{STEM}{middle}.{ending}"]
    places = read_json(index).get("weight_map")
    names = sorted({str(name) for name in places.values()}) if isinstance(places, dict) else []
    wrong = [name for name in names if not re.fullmatch(rf"{STEM}[\w.-]*\.{ending}", name)]
    if wrong or not names:
        got = repr(wrong[0]) if wrong else "none"
        raise ValueError(f"{index}: weight_map must name files of its folder, {STEM}*.{ending}. Got {got}")
    return names


def fetch_folder(
    repo: str,
    revision: str | None,
    token: str | None,
    local_files_only: bool,
    subfolder: str | None = None,
    variant: str | None = None,
) -> Path:
    """Download a Hub repository's metadata, see what it is, and only then its weights."""
    hub = (revision, token, local_files_only)
    folder = download_folder(repo, METADATA_PATTERNS, *hub, advice=NETWORK_ADVICE)
    inside = unet_folder(inner_folder(folder, subfolder)).relative_to(folder)
    for ending in ENDINGS:
        names = weights_files(folder / inside, ending, check_variant(variant))
        wanted = [(inside / name).as_posix() for name in names]
        folder = download_folder(repo, METADATA_PATTERNS + wanted, *hub, advice=NETWORK_ADVICE)
        if all((folder / name).is_file() for name in wanted):
            break
    return folder


def inner_folder(folder: Path, subfolder: str | None) -> Path:
    """``folder/subfolder``. ValueError for a path that leaves the folder, OSError if it is missing."""
    inner = Path(subfolder or "")
    if inner.is_absolute() or ".." in inner.parts:
        raise ValueError(f"subfolder must be a path inside of the folder or repository. Got {subfolder!r}")
    if not (folder / inner).is_dir():
        raise OSError(f"{folder} has no folder {subfolder}")
    return folder / inner


def check_variant(variant: str | None) -> str | None:
    if variant is not None and not re.fullmatch(r"[\w-]+", variant):
        raise ValueError(f"variant must be a word, such as 'fp16'. Got {variant!r}")
    return variant


def read_folder(
    folder: Path, subfolder: str | None = None, variant: str | None = None
) -> tuple[nn.Module, Any, dict[str, Any]]:
    """The U-Net (float32), the scheduler, and ``score_network.json``'s entries.

    What ``subfolder`` does not hold but the U-Net is taken from ``folder``: diffusers' training checkpoints lie beside
    their scheduler.
    """
    inner = inner_folder(folder, subfolder)
    inside = unet_folder(inner)
    scheduler = read_scheduler([inner / "scheduler", inner, folder / "scheduler", folder], SUPPORTED)
    path = next((place / METADATA for place in (inner, folder) if (place / METADATA).exists()), None)
    extras = {} if path is None else current_names(read_json(path))
    if path is not None:
        check_extras(extras, path)
    return read_unet(inside, check_variant(variant)), scheduler, extras


def current_names(extras: dict[str, Any]) -> dict[str, Any]:
    """``score_network.json``'s entries under today's names; version 0.1 called some of them differently."""
    extras = dict(extras)
    if "label_weight" in extras:
        extras["guidance_scale"] = extras.pop("label_weight")
    if "conditioning" in extras:
        image_range = extras.pop("image_range", [-1, 1])
        extras["plain"] = extras.pop("conditioning") == "timestep" and image_range == [-1, 1]
    return extras


def read_unet(folder: Path, variant: str | None = None) -> nn.Module:
    from .unet import build_unet

    path = folder / "config.json"
    config = read_json(path)
    is_fork = config.get("time_embedding_type") == "adm" or "attention_legacy_order" in config
    unet = build_unet(fork_config(config) if is_fork else config, path)
    found = [weights_files(folder, ending, variant) for ending in ENDINGS]
    names = next((names for names in found if all((folder / name).is_file() for name in names)), None)
    if names is None:
        raise OSError(missing_weights(folder, found))
    state: dict[str, Tensor] = {}
    for name in names:
        state |= read_tensors(folder / name)
    with reading(folder, "has weights that do not fit config.json"):
        state = {current_key(key): tensor for key, tensor in state.items() if key not in DUPLICATE_KEYS}
        if config.get("attention_legacy_order"):
            unpack_fork(state, unet)
    load_strictly(unet, state, folder, "config.json")
    make_picklable(unet)
    return unet


def missing_weights(folder: Path, wanted: list[list[str]]) -> str:
    lacking = [next(name for name in names if not (folder / name).is_file()) for names in wanted]
    others = sorted(path.name for path in folder.glob(f"{STEM}*") if path.suffix != ".json")
    hint = f" It has {', '.join(others[:4])}: pass variant." if others else ""
    return (
        f"{folder} has no weights: neither {' nor '.join(lacking)}.{hint} Download the repository again, or see "
        "whether it has another variant."
    )


def current_key(key: str) -> str:
    """The name of a tensor in today's ``UNet2DModel``."""
    return ".".join(OLD_ATTENTION.get(part, part) for part in key.split(".")) if ".attentions." in key else key


def fork_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the diffusers fork of ``xutongda/adm_imagenet_256x256_unconditional`` in diffusers' words.

    Its ``time_embedding_type: "adm"`` is diffusers' "positional" (flipped, no shift).
    """
    # OpenAI's GroupNorm, with which these weights were trained, has 1e-5; the fork's file says 1e-6.
    changed = {"time_embedding_type": "positional", "flip_sin_to_cos": True, "freq_shift": 0, "norm_eps": 1e-5}
    return {key: value for key, value in config.items() if key != "attention_legacy_order"} | changed


def unpack_fork(state: dict[str, Tensor], unet: nn.Module) -> None:
    """Put the fork's projections into diffusers' order, in place.

    With ``attention_legacy_order`` its to_q, to_k and to_v are plain thirds of OpenAI's packed qkv, head by head, so
    they are stacked and unpacked.
    """
    for name in [key for key in state if ".to_q." in key]:
        names = [name, name.replace(".to_q.", ".to_k."), name.replace(".to_q.", ".to_v.")]
        heads: Any = unet.get_submodule(name.rsplit(".to_q.", 1)[0]).heads
        state.update(zip(names, unpack_attention(torch.cat([state[n] for n in names]), heads, True)))


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


def write_folder(
    folder: Path,
    unet: nn.Module,
    schedule: NoiseSchedule,
    prediction_type: str,
    variance_type: str,
    metadata: dict[str, Any],
) -> None:
    """Write the layout that ``DiffusionPipeline.from_pretrained`` reads, weights as safetensors."""
    from .unet import UNet2DModel

    inner, scheduler, unsaid = to_diffusers(unet, schedule, prediction_type, variance_type)
    model: Any = inner
    library = "diffusers" if type(model) is UNet2DModel else type(model).__module__
    index = {
        "_class_name": PIPELINES[type(scheduler).__name__],
        "scheduler": ["diffusers", type(scheduler).__name__],
        "unet": [library, type(model).__name__],
    }
    with writing(folder) as new:
        model.save_pretrained(new / "unet")
        for path in (new / "unet").glob("*.safetensors"):
            add_checksum(path)
        config = new / "unet" / "config.json"
        entries = read_json(config)
        # The path it was loaded from says nothing to others.
        entries.pop("_name_or_path", None)
        config.write_text(json.dumps(entries, indent=2) + "\n")
        scheduler.save_pretrained(new / "scheduler")
        (new / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
        (new / METADATA).write_text(json.dumps(metadata | unsaid, indent=2) + "\n")
