"""Score networks as folders in diffusers' layout: unet/, scheduler/, model_index.json, and what only we need to know.

`score_network.json` holds what diffusers has no names for: the null class, and how a network with a variance-exploding
schedule is called; diffusers ignores the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from diffusers import DDPMScheduler, ScoreSdeVeScheduler
from safetensors.torch import load_file
from torch import Tensor

from .download import download_folder
from .schedule import NoiseSchedule
from .unet import OpenAIUNet2DModel, UNet2DModel, make_picklable, unpack_attention

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from .network import ScoreNetwork

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
EXTRAS = "score_network.json"
#: The frequencies' first name; NCSN++ checkpoints on the Hub were written while diffusers held them under both.
TWICE_NAMED = {"time_proj.W"}
METADATA_PATTERNS = ["*.json", "unet/*.json", "scheduler/*.json"]
#: The pipelines that sample with the schedulers we write.
PIPELINES = {"DDPMScheduler": "DDPMPipeline", "ScoreSdeVeScheduler": "ScoreSdeVePipeline"}
#: Parts of a pipeline that show it works on latents or on text.
FOREIGN_PARTS = {"vae", "vqvae", "text_encoder", "tokenizer", "transformer", "bert", "prior", "movq"}
WHAT_WORKS = (
    "A pixel-space UNet2DModel with a DDPM, DDIM or ScoreSdeVe scheduler is needed, such as google/ddpm-cifar10-32."
)


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
    if "image_range" in extras:
        extras["image_range"] = tuple(extras["image_range"])
    return read_unet(unet_folder(folder)), read_scheduler(folder), extras


def read_scheduler(folder: Path) -> SchedulerMixin:
    for candidate in (folder / "scheduler", folder):
        path = candidate / "scheduler_config.json"
        if path.exists():
            name = json.loads(path.read_text()).get("_class_name", "DDPMScheduler")
            if not hasattr(diffusers, name):
                raise ValueError(f"{path} names the scheduler {name}, which diffusers does not have. {WHAT_WORKS}")
            try:
                return getattr(diffusers, name).from_pretrained(candidate)
            except Exception as error:
                raise ValueError(f"{path} is no configuration of a {name}: {error}") from error
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
    wrong = {
        what: sorted(map(str, set(keys) - TWICE_NAMED)) for what, keys in report.items() if set(keys) - TWICE_NAMED
    }
    if wrong:
        raise OSError(f"{folder}: the weights do not fit config.json: {str(wrong)[:300]}")
    make_picklable(unet)
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
    """Write the layout that ``DiffusionPipeline.from_pretrained`` reads, weights as safetensors."""
    scheduler = exploding_scheduler(network) if network.schedule.exploding else preserving_scheduler(network)
    unet: Any = network.unet
    unet.save_pretrained(folder / "unet")
    config = folder / "unet" / "config.json"
    entries = json.loads(config.read_text())
    # The path it was loaded from says nothing to others.
    entries.pop("_name_or_path", None)
    config.write_text(json.dumps(entries, indent=2) + "\n")
    scheduler.save_pretrained(folder / "scheduler")
    library = "diffusers" if type(unet) is UNet2DModel else OpenAIUNet2DModel.__module__
    index = {
        "_class_name": PIPELINES[type(scheduler).__name__],
        "scheduler": ["diffusers", type(scheduler).__name__],
        "unet": [library, type(unet).__name__],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    extras: dict[str, Any] = {"null_class": network.null_class, "label_weight": network.label_weight}
    if network.schedule.exploding:
        own = ("prediction_type", "variance_type", "image_range", "conditioning")
        extras |= {name: getattr(network, name) for name in own}
    (folder / EXTRAS).write_text(json.dumps(extras, indent=2) + "\n")


def preserving_scheduler(network: ScoreNetwork) -> DDPMScheduler:
    return DDPMScheduler(
        num_train_timesteps=network.num_timesteps,
        trained_betas=network.schedule.exact_betas,
        prediction_type=network.prediction_type,
        variance_type=network.variance_type,
    )


def exploding_scheduler(network: ScoreNetwork) -> ScoreSdeVeScheduler:
    """Its sigmas are on the scale of the network's own images. ValueError where they are not geometric."""
    variances = torch.cumsum(torch.tensor(network.schedule.exact_betas, dtype=torch.float64), dim=0)
    # Twelve digits: the others are rounding.
    sigma_min, sigma_max = (float(f"{variance.sqrt():.12g}") for variance in variances[[0, -1]])
    geometric = NoiseSchedule.variance_exploding(sigma_min, sigma_max, network.num_timesteps)
    if not torch.allclose(geometric.sigmas, network.schedule.sigmas.cpu(), rtol=1e-5, atol=0):
        raise ValueError(f"a variance-exploding schedule must be geometric to be saved. Got {network.schedule}")
    low, high = network.image_range
    scale = (high - low) / 2
    return ScoreSdeVeScheduler(network.num_timesteps, sigma_min=scale * sigma_min, sigma_max=scale * sigma_max)
