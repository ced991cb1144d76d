"""Score networks as files: folders in diffusers' layout, files of tensors, and both on the Hugging Face Hub.

A folder holds unet/, scheduler/ and model_index.json.
`score_network.json` holds what diffusers has no names for, such as the null class. diffusers ignores the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import DUPLICATE_KEYS, make_picklable, to_diffusers
from .schedule import NoiseSchedule

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
METADATA = "score_network.json"
METADATA_PATTERNS = ["*.json", "unet/*.json", "scheduler/*.json"]
#: The pipelines that sample with the schedulers that are written here.
PIPELINES = {"DDPMScheduler": "DDPMPipeline", "ScoreSdeVeScheduler": "ScoreSdeVePipeline"}
#: Parts of a pipeline that show that it works on latents or on text.
FOREIGN_PARTS = {"vae", "vqvae", "text_encoder", "tokenizer", "transformer", "bert", "prior", "movq"}
SUPPORTED = (
    "A pixel-space UNet2DModel with a DDPM, DDIM or ScoreSdeVe scheduler is needed, such as google/ddpm-cifar10-32."
)
ADVICE = (
    "Check the name and the connection, or give a local path, or prepare the cache on a machine that reaches the Hub "
    "(`hf download REPO`) and pass local_files_only=True, or use the embedded network 'cifar10'."
)


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn whatever the Hub's client raises into one OSError that names what was tried."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"{what}: {error}") from error
    except LocalEntryNotFoundError as error:
        raise OSError(f"{what} failed: it is not in the local cache and the Hub did not answer. {ADVICE}") from error
    except HfHubHTTPError as error:
        first_line = str(error).strip().splitlines()[0]
        raise OSError(f"{what} failed: {first_line} {ADVICE}") from error
    except Exception as error:
        raise OSError(f"{what} failed: {type(error).__name__}: {error} {ADVICE}") from error


def download_file(
    repo: str, filename: str, revision: str | None = None, token: str | None = None, local_files_only: bool = False
) -> Path:
    """One file of a Hub repository, from the cache if it is there. OSError if it cannot be had."""
    from huggingface_hub import hf_hub_download

    with hub_errors(f"downloading {filename} of {repo} (revision {revision or 'main'})"):
        return Path(hf_hub_download(repo, filename, revision=revision, token=token, local_files_only=local_files_only))


def download_folder(
    repo: str,
    patterns: list[str],
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of a Hub repository's files that match the patterns, from the cache if they are there."""
    from huggingface_hub import snapshot_download

    with hub_errors(f"downloading {', '.join(patterns)} of {repo} (revision {revision or 'main'})"):
        return Path(
            snapshot_download(
                repo, revision=revision, token=token, local_files_only=local_files_only, allow_patterns=patterns
            )
        )


def upload_folder(folder: Path, repo: str, private: bool | None, token: str | None) -> str:
    """Upload a folder to a model repository, made if it is missing. Returns the commit's address."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with hub_errors(f"uploading to {repo}"):
        repo = api.create_repo(repo, private=private, exist_ok=True).repo_id
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload score network"))


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
        pipeline = json.loads(index.read_text())
        foreign = sorted(FOREIGN_PARTS & set(pipeline))
        if foreign:
            name = pipeline.get("_class_name", "a pipeline")
            raise ValueError(f"{folder} holds a {name} with {', '.join(foreign)}: not pixel space. {SUPPORTED}")
    for candidate in (folder / "unet", folder):
        config = candidate / "config.json"
        if config.exists():
            name = json.loads(config.read_text()).get("_class_name")
            if name not in ("UNet2DModel", "OpenAIUNet2DModel"):
                raise ValueError(f"{folder} holds a {name or 'model of no named class'}. {SUPPORTED}")
            return candidate
    raise ValueError(f"{folder} holds neither unet/config.json nor config.json. {SUPPORTED}")


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


def read_folder(folder: Path) -> tuple[nn.Module, Any, dict[str, Any]]:
    """The U-Net (float32), the scheduler, and ``score_network.json``'s entries."""
    extras = json.loads((folder / METADATA).read_text()) if (folder / METADATA).exists() else {}
    return read_unet(unet_folder(folder)), read_scheduler(folder), current_names(extras)


def current_names(extras: dict[str, Any]) -> dict[str, Any]:
    """``score_network.json``'s entries under today's names; version 0.1 called some of them differently."""
    extras = dict(extras)
    if "label_weight" in extras:
        extras["guidance_scale"] = extras.pop("label_weight")
    if "conditioning" in extras:
        image_range = extras.pop("image_range", [-1, 1])
        extras["plain"] = extras.pop("conditioning") == "timestep" and image_range == [-1, 1]
    return extras


def read_scheduler(folder: Path) -> Any:
    import diffusers

    for candidate in (folder / "scheduler", folder):
        path = candidate / "scheduler_config.json"
        if path.exists():
            name = json.loads(path.read_text()).get("_class_name", "DDPMScheduler")
            if not hasattr(diffusers, name):
                raise ValueError(f"{path} names the scheduler {name}, which diffusers does not have. {SUPPORTED}")
            try:
                return getattr(diffusers, name).from_pretrained(candidate)
            except Exception as error:
                raise ValueError(f"{path} is no configuration of a {name}: {error}") from error
    raise ValueError(f"{folder} holds no scheduler_config.json, so the noise schedule is unknown. {SUPPORTED}")


def read_unet(folder: Path) -> nn.Module:
    from .unet import OpenAIUNet2DModel, UNet2DModel

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
        what: sorted(map(str, set(keys) - DUPLICATE_KEYS))
        for what, keys in report.items()
        if set(keys) - DUPLICATE_KEYS
    }
    if wrong:
        raise OSError(f"{folder}: the weights do not fit config.json: {str(wrong)[:300]}")
    make_picklable(unet)
    return unet


def read_forked_unet(folder: Path, config: dict[str, Any]) -> nn.Module:
    """A checkpoint of the diffusers fork that ``xutongda/adm_imagenet_256x256_unconditional`` is written for.

    Its ``time_embedding_type: "adm"`` is diffusers' "positional" (flipped, no shift). With ``attention_legacy_order``
    its to_q, to_k and to_v are plain thirds of OpenAI's packed qkv, head by head, so they are stacked and unpacked.
    """
    from .unet import UNet2DModel

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


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, in float32: safetensors, else ``torch.load(weights_only=True)``.

    OSError for damaged files and for anything that is not a plain state dict.
    """
    from safetensors.torch import load_file

    try:
        safe = path.suffix == ".safetensors"
        state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise OSError(f"{path} is damaged, incomplete or no state dict: {reason}. Download it again.") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise OSError(f"{path} is no plain state dict of tensors, as OpenAI's checkpoints are")
    return {name: value.float() for name, value in state.items()}


def load_strictly(unet: nn.Module, state: dict[str, Tensor], source: Path, description: str) -> None:
    """Load every parameter, none left over. OSError if they do not fit the network that ``description`` describes."""
    try:
        unet.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise OSError(f"the weights of {source} do not fit {description}: {str(error)[:400]}") from error


def write_folder(
    folder: Path,
    unet: nn.Module,
    schedule: NoiseSchedule,
    prediction_type: str,
    variance_type: str,
    metadata: dict[str, Any],
) -> None:
    """Write the layout that ``DiffusionPipeline.from_pretrained`` reads, weights as safetensors."""
    from .unet import OpenAIUNet2DModel, UNet2DModel

    inner, scheduler, unsaid = to_diffusers(unet, schedule, prediction_type, variance_type)
    model: Any = inner
    model.save_pretrained(folder / "unet")
    config = folder / "unet" / "config.json"
    entries = json.loads(config.read_text())
    # The path it was loaded from says nothing to others.
    entries.pop("_name_or_path", None)
    config.write_text(json.dumps(entries, indent=2) + "\n")
    scheduler.save_pretrained(folder / "scheduler")
    library = "diffusers" if type(model) is UNet2DModel else OpenAIUNet2DModel.__module__
    index = {
        "_class_name": PIPELINES[type(scheduler).__name__],
        "scheduler": ["diffusers", type(scheduler).__name__],
        "unet": [library, type(model).__name__],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / METADATA).write_text(json.dumps(metadata | unsaid, indent=2) + "\n")
