"""Digests of everything that a kept result depends on: tensors, networks, classifiers, and the data that is read.

A path says where something was, a digest says what it was. A classifier that is trained again into its folder, or
another data set under the same name, has another digest.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Subset

from ...score import ScoreNetwork
from ..corrupted import Corrupted
from .sets import OneSize, Prepared


def digest(*parts: Any) -> str:
    """SHA-256 of plain values, bytes and tensors, in hexadecimal."""
    total = hashlib.sha256()
    for part in parts:
        content = to_bytes(part)
        total.update(f"{type(part).__name__} {len(content)} ".encode())
        total.update(content)
    return total.hexdigest()


def to_bytes(part: Any) -> Any:
    """The content of a value: a tensor's with its type and shape, a plain value's as JSON."""
    if isinstance(part, bytes):
        return part
    if isinstance(part, Tensor):
        flat = part.detach().cpu().contiguous().reshape(-1)
        return f"{part.dtype} {tuple(part.shape)} ".encode() + flat.view(torch.uint8).numpy().tobytes()
    return json.dumps(part, sort_keys=True, default=str).encode()


def digest_of_module(module: nn.Module, *more: Any) -> str:
    """Of a module's structure and of all its weights and buffers, and of more values that belong to it."""
    state = [part for name, tensor in sorted(module.state_dict().items()) for part in (name, tensor)]
    return digest(repr(module), *state, *more)


def digest_of_network(network: ScoreNetwork) -> str:
    """Of a score network: its weights, its schedule, and how it is called."""
    config = getattr(network.unet, "config", {})
    config = config if isinstance(config, dict) else vars(config)
    config = {key: value for key, value in config.items() if not key.startswith("_")}  # diffusers' own, such as a path
    types = [network.prediction_type, network.variance_type, network.null_class, network.guidance_scale]
    return digest_of_module(network, network.schedule.betas, network.image_size, types, config)


def digest_of_classifier(classifier: nn.Module, fields: dict[str, Any]) -> str:
    """Of a classifier of ``open_classifier``: its weights, its normalisation, and the fields that name it."""
    scale = [getattr(classifier, name, None) for name in ("mean", "std")]
    return digest_of_module(classifier, scale, fields)


def digest_of_data(data: Any) -> str:
    """Of all items of a data set, as they are stored. Pictures are not decoded, corruptions are not computed."""
    return digest(*(digest(*stored_item(data, index)) for index in range(len(data))))


def stored_item(data: Any, index: int) -> Iterable[Any]:
    """What an item is made from: the bytes of its picture, its target, and what is done to it."""
    if isinstance(data, Subset):
        return stored_item(data.dataset, data.indices[index])
    if isinstance(data, Corrupted):
        done = [data.corruption, data.severity, data.corruption_set, data.seed, index, repr(data.transform)]
        return [*stored_item(data.dataset, index), done]
    if isinstance(data, Prepared):
        return [*stored_item(data.dataset, index), repr(data.transform)]
    if isinstance(data, OneSize):
        return stored_item(data.dataset, index)
    if isinstance(data, ConcatDataset):
        part = bisect_right(data.cumulative_sizes, index)
        return stored_item(data.datasets[part], index - ([0, *data.cumulative_sizes][part]))
    if hasattr(data, "stored_item"):
        return data.stored_item(index)
    if hasattr(data, "samples"):  # torchvision's ImageFolder
        path, target = data.samples[index]
        return [Path(path).read_bytes(), target, repr(data.transform)]
    return data[index]
