"""Guidance classifiers as folders: encoder/ in diffusers' layout, and a JSON file with the classifier's metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..files import (
    Rule,
    boolean,
    check_entries,
    integer,
    load_strictly,
    optional,
    read_json,
    read_tensors,
    several,
    text,
)
from ..score.configs import BLOCK_RULES, CHANNELS, MAX_CLASSES, SIDE, WIDTH
from ..score.storage import WEIGHTS
from .classifiers import METADATA
from .encoder import GuidanceEncoder

FILES = (METADATA, "encoder/config.json", f"encoder/{WEIGHTS[0]}")
#: ``GuidanceEncoder``'s arguments, as ``encoder/config.json`` may say them.
ENCODER_RULES: dict[str, Rule] = BLOCK_RULES | {
    "sample_size": SIDE,
    "in_channels": CHANNELS,
    "num_classes": integer(1, MAX_CLASSES),
    "attention_head_dim": WIDTH,
    "denoised_input": boolean(),
}
METADATA_RULES: dict[str, Rule] = {
    "classes": optional(several(text(), MAX_CLASSES)),
    "network": optional(text()),
    "through_network": boolean(),
}


def build_encoder(config: dict[str, Any], source: Path | str) -> GuidanceEncoder:
    """The encoder of a configuration, on the meta device: no memory and no random numbers for its weights.

    ValueError if a value is out of range or the values do not fit each other.
    """
    check_entries(config, ENCODER_RULES, source)
    arguments = {key: value for key, value in config.items() if key in ENCODER_RULES}
    try:
        with torch.device("meta"):
            return GuidanceEncoder(**arguments)
    except Exception as error:
        raise ValueError(f"{source} describes no classifier that can be built: {error}") from error


def read_folder(folder: Path) -> tuple[GuidanceEncoder, dict[str, Any]]:
    """The encoder and the metadata of a folder.

    Raises:
        OSError: a file is missing, damaged, or does not fit the others. ValueError: a value is out of range.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise OSError(
            f"{folder} must be a folder that save_pretrained of a guidance classifier wrote. Missing: {missing}"
        )
    metadata, config = (read_json(folder / name) for name in FILES[:2])
    check_entries(metadata, METADATA_RULES, folder / METADATA)
    encoder = build_encoder(config, folder / FILES[1])
    classes = metadata.get("classes")
    if classes is not None and len(classes) != encoder.config["num_classes"]:
        number = encoder.config["num_classes"]
        raise ValueError(f"{folder / METADATA}: classes must be {number} names, one per class. Got {len(classes)}")
    load_strictly(encoder, read_tensors(folder / FILES[2]), folder, "config.json")
    return encoder, metadata
