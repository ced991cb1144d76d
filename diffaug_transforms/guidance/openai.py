"""Load guidance classifiers: OpenAI's (guided-diffusion), saved folders, and the embedded one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ..arguments import as_path
from ..files import check_entries, integer, load_strictly, read_tensors, reading
from ..images import ASSETS
from ..score import Denoiser, ScoreNetwork
from ..score.configs import MAX_SIDE, MAX_WIDTH
from ..score.openai import (
    DEFAULTS,
    NUM_CLASSES,
    OTHER_FLAGS,
    convert_state_dict,
    flags_of_command_line,
    size_in_file,
    typed,
    unet_config,
    without_prefixes,
)
from .classifiers import DenoiseAugmentedClassifier, NoisyClassifier
from .encoder import GuidanceEncoder
from .storage import build_encoder, read_folder

#: Inside the package, trained by examples/train_guidance_classifier.py. Its guidance_classifier.json says how.
EMBEDDED = ("cifar10-denoise-augmented",)
#: ``classifier_defaults`` of guided-diffusion's script_util.py, and the attention order of ``EncoderUNetModel``.
CLASSIFIER_DEFAULTS: dict[str, Any] = {
    "image_size": 64,
    "classifier_width": 128,
    "classifier_depth": 2,
    "classifier_attention_resolutions": "32,16,8",
    "classifier_use_scale_shift_norm": True,
    "classifier_resblock_updown": True,
    "classifier_pool": "attention",
    "use_new_attention_order": False,
}
FLAG_RULES = {
    "image_size": integer(1, MAX_SIDE),
    "classifier_width": integer(1, MAX_WIDTH),
    "classifier_depth": integer(1, 16),
}
#: ``create_classifier`` gives it to all classifiers.
HEAD_WIDTH = 64
#: Flags of classifier_train.py that say nothing about the network.
TRAINING_FLAGS = {"noised", "val_data_dir", "iterations", "anneal_lr", "eval_interval"}
#: File name -> flags of the classifiers that OpenAI released (guided-diffusion's README).
RELEASES: dict[str, dict[str, Any]] = {
    "64x64_classifier.pt": {"image_size": 64, "classifier_depth": 4},
    **{f"{size}x{size}_classifier.pt": {"image_size": size} for size in (128, 256, 512)},
}


def load_guidance_classifier(
    path: str | Path,
    openai_flags: str | dict[str, Any] | None = None,
    *,
    network: str | Path | ScoreNetwork | Denoiser | None = None,
) -> NoisyClassifier | DenoiseAugmentedClassifier:
    """Load a guidance classifier, on the CPU, float32, in eval mode.

    Args:
        path: an OpenAI ``.pt`` file, read with ``weights_only=True`` (or ``.safetensors`` with its names); a folder
            written by a classifier's ``save_pretrained``; or "cifar10-denoise-augmented", a small classifier inside
            the package.
        openai_flags: flags of an OpenAI file, as a dict or as the command line that trains or uses it ("--image_size 64
            --classifier_depth 4 ..."). Files with their released names do not need them.
        network: score network, or Denoiser, for a folder with a denoise-augmented classifier. None: the one that the
            folder names.

    Raises:
        ValueError: flags are missing or wrong, the pool is not attention, or the folder names no network.
        OSError: a file is missing, damaged, or does not fit its flags.

    Example:
        >>> classifier = load_guidance_classifier("cifar10-denoise-augmented")
        >>> classifier(torch.randn(2, 3, 32, 32), torch.tensor([0, 999])).shape
        torch.Size([2, 10])
        >>> classifier = load_guidance_classifier("256x256_classifier.pt")  # doctest: +SKIP
    """
    path = as_path("path", path)
    path = ASSETS / "classifiers" / path if str(path) in EMBEDDED else path.expanduser()
    if path.is_dir():
        return load_folder(path, network)
    if network is not None:
        raise ValueError(f"network is for folders with a denoise-augmented classifier. Got it with {path}")
    if not path.is_file():
        raise OSError(f"there is no classifier at {path}; {EMBEDDED[0]} is inside the package")
    flags = RELEASES.get(path.name) if openai_flags is None else openai_flags
    if flags is None:
        raise ValueError(
            f"{path.name} is none of OpenAI's released classifiers, and weights do not tell image size and attention "
            "order: pass openai_flags, the command line that trained it"
        )
    parsed = parse_classifier_flags(flags)
    state = read_tensors(path)
    names = list(state)
    state = without_prefixes(state)
    channels = size_in_file(state, "input_blocks.0.0.weight", 1, 3)
    classes = size_in_file(state, "out.2.c_proj.weight", 0, NUM_CLASSES)
    encoder = build_encoder(encoder_config(parsed, channels, classes), f"{path}, openai_flags")
    with reading(path, "has weights that do not fit openai_flags"):
        state = convert_classifier(state, encoder, not parsed["use_new_attention_order"])
    load_strictly(encoder, state, path, "openai_flags", names)
    return NoisyClassifier(encoder).eval()


def load_folder(
    folder: Path, network: str | Path | ScoreNetwork | Denoiser | None
) -> NoisyClassifier | DenoiseAugmentedClassifier:
    """The classifier that ``save_pretrained`` wrote. ``network`` replaces the score network that the folder names."""
    encoder, metadata = read_folder(folder)
    if not encoder.config["denoised_input"]:
        if network is not None:
            raise ValueError(f"network is for denoise-augmented classifiers. Got it with the noisy one of {folder}")
        return NoisyClassifier(encoder, classes=metadata.get("classes")).eval()
    source = metadata.get("network") if network is None else network
    if source is None:
        raise ValueError(f"{folder} names no score network, as its classifier was made with an object: pass network")
    through = metadata.get("through_network", True)
    return DenoiseAugmentedClassifier(encoder, source, classes=metadata.get("classes"), through_network=through).eval()


def parse_classifier_flags(flags: str | dict[str, Any]) -> dict[str, Any]:
    """The classifier's flags, from a dict or a command line, with defaults for those that are missing."""
    given = flags_of_command_line(flags) if isinstance(flags, str) else dict(flags)
    if unknown := sorted(set(given) - set(CLASSIFIER_DEFAULTS) - set(DEFAULTS) - OTHER_FLAGS - TRAINING_FLAGS):
        raise ValueError(f"openai_flags must be flags of guided-diffusion. Got {unknown}")
    if "num_channels" in given:
        # In a command line for sampling, the attention order is the score network's, not the classifier's.
        given.pop("use_new_attention_order", None)
    parsed = {name: typed(name, given.get(name, default), default) for name, default in CLASSIFIER_DEFAULTS.items()}
    check_entries(parsed, FLAG_RULES, "openai_flags")
    if parsed["classifier_pool"] != "attention":
        pool = parsed["classifier_pool"]
        raise ValueError(f"classifier_pool must be 'attention', as in the released ones. Got {pool!r}")
    return parsed


def encoder_config(flags: dict[str, Any], channels: int = 3, num_classes: int = NUM_CLASSES) -> dict[str, Any]:
    """``GuidanceEncoder``'s arguments: the encoder of the U-Net that these flags would make.

    OpenAI's code has no flags for the channels of the images and for the number of classes.
    """
    same = ("attention_resolutions", "use_scale_shift_norm", "resblock_updown")
    unet_flags = DEFAULTS | {name: flags[f"classifier_{name}"] for name in same}
    unet_flags |= {"image_size": flags["image_size"], "num_head_channels": HEAD_WIDTH}
    unet_flags |= {"num_channels": flags["classifier_width"], "num_res_blocks": flags["classifier_depth"]}
    unet = unet_config(unet_flags, channels)
    shared = ("sample_size", "in_channels", "block_out_channels", "down_block_types", "layers_per_block")
    config = {
        name: unet[name] for name in (*shared, "attention_head_dim", "downsample_type", "resnet_time_scale_shift")
    }
    return {"num_classes": num_classes, "model_channels": flags["classifier_width"], **config}


def convert_classifier(state: dict[str, Tensor], encoder: GuidanceEncoder, legacy_order: bool) -> dict[str, Tensor]:
    """OpenAI's tensors under the names of ``encoder``. The pool's 1x1 convolutions become linear layers."""
    pool = {name: tensor for name, tensor in state.items() if name.startswith("out.2.")}
    blocks = {name: tensor for name, tensor in state.items() if name not in pool}
    converted = convert_state_dict(blocks, encoder, legacy_order)
    for name, tensor in pool.items():
        converted[name.replace("out.2.", "pool.")] = tensor.squeeze(-1) if tensor.ndim == 3 else tensor
    return converted
