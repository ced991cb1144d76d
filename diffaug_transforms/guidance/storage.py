"""Guidance classifiers as folders: encoder/ in diffusers' layout, and a JSON file with the classifier's metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..score.storage import WEIGHTS, load_strictly, read_tensors
from .encoder import GuidanceEncoder

METADATA = "guidance_classifier.json"
FILES = (METADATA, "encoder/config.json", f"encoder/{WEIGHTS[0]}")


def write_folder(folder: Path, encoder: GuidanceEncoder, **metadata: Any) -> None:
    """Write ``encoder/`` (config.json, safetensors) and ``guidance_classifier.json`` (the metadata)."""
    encoder.save_pretrained(folder / "encoder")
    (folder / METADATA).write_text(json.dumps(metadata, indent=1) + "\n")


def read_folder(folder: Path) -> tuple[GuidanceEncoder, dict[str, Any]]:
    """The encoder and the metadata of a folder.

    Raises:
        OSError: a file is missing, damaged, or does not fit the others.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise OSError(
            f"{folder} must be a folder that save_pretrained of a guidance classifier wrote. Missing: {missing}"
        )
    try:
        metadata, config = (json.loads((folder / name).read_text()) for name in FILES[:2])
    except ValueError as error:
        raise OSError(f"{folder}: {FILES[0]} or {FILES[1]} is damaged: {error}") from error
    with torch.device("meta"):  # needs no memory and draws no random numbers for weights that are replaced
        encoder = GuidanceEncoder.from_config(config)
    load_strictly(encoder, read_tensors(folder / FILES[2]), folder, "config.json")
    return encoder, metadata
