"""Random weights of DeepAugment's pretrained networks, at their true sizes."""

from __future__ import annotations

import math

import torch

from diffaug_transforms.transforms.deepaugment import cae, edsr

SHAPES = {"edsr": edsr.edsr_shapes(), "cae": cae.cae_shapes()}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_weights(name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Of the size of torch's initial weights."""
    source = generator(seed)
    return {
        key: (2 * torch.rand(shape, generator=source) - 1) / math.sqrt(math.prod(shape[1:]) or 1)
        for key, shape in SHAPES[name].items()
    }
