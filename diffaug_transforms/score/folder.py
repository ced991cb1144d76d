"""Score networks as folders in diffusers' layout: unet/, scheduler/, model_index.json, and what only we need to know.

`score_network.json` holds the null class, which diffusers has no name for; diffusers ignores the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file
from torch import Tensor

from .download import download_folder
from .unet import OpenAIUNet2DModel, UNet2DModel, unpack_attention

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from .network import ScoreNetwork

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
EXTRAS = "score_network.json"
METADATA_PATTERNS = ["*.json", "unet/*.json", "scheduler/*.json"]
#: Parts of a pipeline that show it works on latents or on text.
FOREIGN_PARTS = {"vae", "vqvae", "text_encoder", "tokenizer", "transformer", "bert", "prior", "movq"}
WHAT_WORKS = "A pixel-space UNet2DModel with a DDPM or DDIM scheduler is needed, such as google/ddpm-cifar10-32."


def unet_folder(folder: Path) -> Path:
    """Where the U-Net lies: in ``unet/`` (pipelines) or in the folder itself. ValueError for foreign models."""
    index = folder / "model_index.json"
    if index.exists():
        pipeline = json.loads(index.read_text())
        foreign = sorted(FOREIGN_PARTS & set(pipeline))
        if foreign:
            name = pipeline.get("_class_name", "a pipeline")
            raise ValueError(f"{folder} holds a {name} with {', '.join(foreign)}: not pixel space. {WHAT_WORKS}")
    for candidate in (folder / "unet", folder):
        config = candidate / "config.json"
        if config.exists():
            name = json.loads(config.read_text()).get("_class_name")
            if name not in ("UNet2DModel", "OpenAIUNet2DModel"):
                raise ValueError(f"{folder} holds a {name or 'model of no named class'}. {WHAT_WORKS}")
            return candidate
    raise ValueError(f"{folder} holds neither unet/config.json nor config.json. {WHAT_WORKS}")


def weights_patterns(folder: Path) -> list[str]:
    """The Hub patterns of the weights that belong to a downloaded folder's metadata, safetensors and older files."""
    inside = unet_folder(folder)
    prefix = "unet/" if inside != folder else ""
    return [prefix + name for name in WEIGHTS]


def fetch_folder(repo: str, revision: str | None, token: str | None, local_files_only: bool) -> Path:
    """Download a Hub repository's metadata, see what it is, and only then its weights."""
    folder = download_folder(repo, METADATA_PATTERNS, revision, token, local_files_only)
    wanted = METADATA_PATTERNS + weights_patterns(folder)
    return download_folder(repo, wanted, revision, token, local_files_only)


def read_folder(folder: Path) -> tuple[UNet2DModel, SchedulerMixin, dict[str, Any]]:
    """The U-Net (float32), the scheduler, and ``score_network.json``'s entries."""
    extras = json.loads((folder / EXTRAS).read_text()) if (folder / EXTRAS).exists() else {}
    return read_unet(unet_folder(folder)), read_scheduler(folder), extras


def read_scheduler(folder: Path) -> SchedulerMixin:
    for candidate in (folder / "scheduler", folder):
        path = candidate / "scheduler_config.json"
        if path.exists():
            name = json.loads(path.read_text()).get("_class_name", "DDPMScheduler")
            if not hasattr(diffusers, name):
                raise ValueError(f"{path} names the scheduler {name}, which diffusers does not have. {WHAT_WORKS}")
            return getattr(diffusers, name).from_pretrained(candidate)
    raise ValueError(f"{folder} holds no scheduler_config.json, so the noise schedule is unknown. {WHAT_WORKS}")


def read_unet(folder: Path) -> UNet2DModel:
    config = json.loads((folder / "config.json").read_text())
    if not any((folder / name).exists() for name in WEIGHTS):
        raise OSError(f"{folder} has no weights: neither {' nor '.join(WEIGHTS)}. Download the repository again.")
    if config.get("time_embedding_type") == "adm" or "attention_legacy_order" in config:
        return read_forked_unet(folder, config)
    kind = OpenAIUNet2DModel if config["_class_name"] == "OpenAIUNet2DModel" else UNet2DModel
    try:
        unet, report = kind.from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=False)
    except Exception as error:
        raise OSError(f"{folder} could not be read; its weights are damaged or not its own: {error}") from error
    wrong = {what: sorted(map(str, keys)) for what, keys in report.items() if keys}
    if wrong:
        raise OSError(f"{folder}: the weights do not fit config.json: {str(wrong)[:300]}")
    return unet


def read_forked_unet(folder: Path, config: dict[str, Any]) -> UNet2DModel:
    """A checkpoint of the diffusers fork that ``xutongda/adm_imagenet_256x256_unconditional`` is written for.

    Its ``time_embedding_type: "adm"`` is diffusers' "positional" (flipped, no shift). With ``attention_legacy_order``
    its to_q, to_k and to_v are plain thirds of OpenAI's packed qkv, head by head, so they are stacked and unpacked.
    """
    legacy_order = config.pop("attention_legacy_order", False)
    config.update(_class_name="UNet2DModel", time_embedding_type="positional", flip_sin_to_cos=True, freq_shift=0)
    # OpenAI's GroupNorm, with which these weights were trained; the fork's file says 1e-6.
    config["norm_eps"] = 1e-5
    with torch.device("meta"):
        unet = UNet2DModel.from_config(config)
    state = read_tensors(next(folder / name for name in WEIGHTS if (folder / name).exists()))
    if legacy_order:
        for name in [key for key in state if ".to_q." in key]:
            names = [name, name.replace(".to_q.", ".to_k."), name.replace(".to_q.", ".to_v.")]
            heads = unet.get_submodule(name.rsplit(".to_q.", 1)[0]).heads
            state.update(zip(names, unpack_attention(torch.cat([state[n] for n in names]), heads, True)))
    load_strictly(unet, state, folder, "config.json")
    return unet


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, in float32: safetensors, else ``torch.load(weights_only=True)``.

    OSError for damaged files and for anything that is not a plain state dict.
    """
    try:
        safe = path.suffix == ".safetensors"
        state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise OSError(f"{path} is damaged, incomplete or no state dict: {reason}. Download it again.") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise OSError(f"{path} is no plain state dict of tensors, as OpenAI's checkpoints are")
    return {name: value.float() for name, value in state.items()}


def load_strictly(unet: UNet2DModel, state: dict[str, Tensor], source: Path, description: str) -> None:
    """Load every parameter, none left over. OSError where they do not fit what ``description`` says of the network."""
    try:
        unet.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise OSError(f"the weights of {source} do not fit {description}: {str(error)[:400]}") from error


def write_folder(folder: Path, network: ScoreNetwork) -> None:
    """Write the layout that ``DDPMPipeline.from_pretrained`` reads, weights as safetensors."""
    unet: Any = network.unet
    unet.save_pretrained(folder / "unet")
    config = folder / "unet" / "config.json"
    entries = json.loads(config.read_text())
    # The path it was loaded from says nothing to others.
    entries.pop("_name_or_path", None)
    config.write_text(json.dumps(entries, indent=2) + "\n")
    DDPMScheduler(
        num_train_timesteps=network.num_timesteps,
        trained_betas=network.schedule.exact_betas,
        prediction_type=network.prediction_type,
        variance_type=network.variance_type,
    ).save_pretrained(folder / "scheduler")
    library = "diffusers" if type(unet) is UNet2DModel else OpenAIUNet2DModel.__module__
    index = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": [library, type(unet).__name__],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    extras = {"null_class": network.null_class, "label_weight": network.label_weight}
    (folder / EXTRAS).write_text(json.dumps(extras, indent=2) + "\n")
