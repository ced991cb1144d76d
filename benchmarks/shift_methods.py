"""The four evaluation modes on a batch: views of its images, probabilities of a classifier, and tallies of both."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from adapted_images import adapted_images, draw_noise
from torch import Tensor, nn

from diffaug_transforms import DiffAugEnsemble, ScoreNetwork, load_score_network
from diffaug_transforms.robustness import DDA
from diffaug_transforms.robustness.adaptation import START_TIMESTEP
from diffaug_transforms.score.matching import ENSEMBLE_TIMESTEPS
from diffaug_transforms.transforms.ensemble import log_mean_probabilities
from diffaug_transforms.transforms.lazy import fast_dtype
from diffaug_transforms.transforms.self_ensemble import RULES

#: (images uint8 (B, C, H, W), their indices in the full set, the folder of their set) to views (V, B, C, H, W).
Views = Callable[[Tensor, Sequence[int], Path], Tensor]


@dataclass(frozen=True)
class Method:
    """How images become views. ``timesteps`` names a row of the table: the network's own, or the paper's."""

    mode: str
    timesteps: str
    steps: tuple[int, ...]
    views: Views


def make_methods(args: argparse.Namespace, device: torch.device) -> list[Method]:
    """DE and DDA, as far as ``args.modes`` needs them, each for every one of ``args.timesteps``."""
    network = load_score_network(args.network).to(device, fast_dtype(device))
    methods = []
    for timesteps in args.timesteps:
        if "de" in args.modes:
            methods.append(_ensemble(network, timesteps, args))
        if "dda" in args.modes or "dda-se" in args.modes:
            methods.append(_dda(network, timesteps, args))
    return methods


def _ensemble(network: ScoreNetwork, timesteps: str, args: argparse.Namespace) -> Method:
    steps = tuple(ENSEMBLE_TIMESTEPS) if timesteps == "paper" else network.ensemble_timesteps
    ensemble = DiffAugEnsemble(nn.Identity(), network, timesteps=steps, max_batch=args.batch_size)

    def views(images: Tensor, indices: Sequence[int], folder: Path) -> Tensor:
        noise = draw_noise(indices, sum(t > 0 for t in steps), images.shape[1:], args.seed)
        return ensemble.views(images.float() / 255, noise.to(images.device))

    return Method("de", timesteps, steps, views)


def _dda(network: ScoreNetwork, timesteps: str, args: argparse.Namespace) -> Method:
    """The reference's DDA for the paper's timesteps; else with the network's start and the options' guide."""
    reference: dict[str, Any] = {"start_timestep": START_TIMESTEP}
    own: dict[str, Any] = {"guidance_scale": args.dda_scale, "downscale": args.dda_downscale}
    dda = DDA(network, checkpointing=args.checkpointing, **(reference if timesteps == "paper" else own))
    kept = f"{Path(args.network).stem}-dda-{dda.timesteps[-1]}-{dda.guidance_scale:g}-{dda.downscale}"

    def views(images: Tensor, indices: Sequence[int], folder: Path) -> Tensor:
        return adapted_images(dda, images, indices, folder / kept, args.seed)[None]

    return Method("dda", timesteps, dda.timesteps[-1:], views)


@torch.inference_mode()
def log_probabilities(classifier: nn.Module, views: Tensor) -> Tensor:
    """float32 (V, B, K) of views (V, B, C, H, W) in [0, 1]."""
    return torch.stack([classifier(view.float()).float().log_softmax(dim=-1) for view in views])


def mode_answers(raw: Tensor, method: Method, log_p: Tensor) -> dict[str, Tensor]:
    """Log-probabilities (B, K) of each mode that a method's views (V, B, K) and the raw images' (B, K) give."""
    mean = log_mean_probabilities(log_p)
    return {"de": mean} if method.mode == "de" else {"dda": mean, "dda-se": RULES["mean"](raw, mean)}
