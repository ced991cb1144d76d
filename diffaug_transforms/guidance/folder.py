"""Guidance classifiers as folders: encoder/ in diffusers' layout, and what only the classifier knows beside it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..score import ScoreNetwork
from ..score.storage import WEIGHTS, load_strictly, read_tensors
from .classifiers import METADATA, DenoiseAugmentedClassifier, NoisyClassifier
from .encoder import GuidanceEncoder

FILES = (METADATA, "encoder/config.json", f"encoder/{WEIGHTS[0]}")


def read_folder(
    folder: Path, network: str | Path | ScoreNetwork | None = None
) -> NoisyClassifier | DenoiseAugmentedClassifier:
    """The classifier of a folder, in eval mode; ``network`` stands in for the one that the folder names.

    Raises:
        OSError: a file is missing, damaged, or does not fit the others.
        ValueError: a network for a noisy classifier, or none for a denoise-augmented one that names none.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise OSError(
            f"{folder} must be a folder that save_pretrained of a guidance classifier wrote. Missing: {missing}"
        )
    try:
        facts, config = (json.loads((folder / name).read_text()) for name in FILES[:2])
    except ValueError as error:
        raise OSError(f"{folder}: {FILES[0]} or {FILES[1]} is damaged: {error}") from error
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced
        encoder = GuidanceEncoder.from_config(config)
    load_strictly(encoder, read_tensors(folder / FILES[2]), folder, "config.json")
    if not encoder.config["denoised_input"]:
        if network is not None:
            raise ValueError(f"network is for denoise-augmented classifiers. Got it with the noisy one of {folder}")
        return NoisyClassifier(encoder, classes=facts["classes"]).eval()
    source = facts["network"] if network is None else network
    if source is None:
        raise ValueError(f"{folder} names no score network, for its classifier was made with an object: pass network")
    classifier = DenoiseAugmentedClassifier(
        encoder, source, classes=facts["classes"], through_network=facts["through_network"]
    )
    return classifier.eval()
