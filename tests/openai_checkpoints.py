"""OpenAI-layout checkpoints of the true shapes, filled from their parameters' names."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

REFERENCE = Path(__file__).parent / "reference"


def fill(parameters: dict[str, list[int]]) -> dict[str, Tensor]:
    """The reference outputs were computed with exactly these values."""
    return {name: fill_one(name, shape) for name, shape in parameters.items()}


def fill_one(name: str, shape: list[int]) -> Tensor:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    w = rng.standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        return torch.from_numpy(np.float32(0.1) * w + np.float32(1 if name.endswith("weight") else 0))
    return torch.from_numpy(w / np.float32(np.sqrt(np.prod(shape[1:]))))


def golden(name: str, folder: Path) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
    """A checkpoint file, its flags, and what OpenAI's code computes with it."""
    with safe_open(REFERENCE / f"{name}.safetensors", "pt") as file:
        metadata = file.metadata()
        outputs = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
    path = folder / f"{name}.pt"
    torch.save(fill(json.loads(metadata["parameters"])), path)
    return path, json.loads(metadata["flags"]), outputs
