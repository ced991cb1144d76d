"""The four evaluation modes on a batch: views of its images, probabilities of a classifier, and tallies of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from adapted_images import adapted_images, draw_noise
from torch import Tensor, nn

from diffaug_transforms import DiffAugEnsemble, ScoreNetwork, load_score_network
from diffaug_transforms.robustness import DDA
from diffaug_transforms.robustness.adaptation import START_TIMESTEP
from diffaug_transforms.score.schedule import ENSEMBLE_TIMESTEPS
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


def make_methods(
    network_name: str, modes: Sequence[str], timesteps: Sequence[str], seed: int, device: torch.device
) -> list[Method]:
    """DE and DDA, as far as ``modes`` needs them, each for every one of ``timesteps`` ("network", "paper")."""
    network = load_score_network(network_name).to(device, fast_dtype(device))
    methods = []
    for name in timesteps:
        if "de" in modes:
            methods.append(_ensemble(network, name, seed))
        if "dda" in modes or "dda-se" in modes:
            methods.append(_dda(network, network_name, name, seed))
    return methods


def _ensemble(network: ScoreNetwork, name: str, seed: int) -> Method:
    steps = tuple(ENSEMBLE_TIMESTEPS) if name == "paper" else network.ensemble_timesteps
    ensemble = DiffAugEnsemble(nn.Identity(), network, timesteps=steps)

    def views(images: Tensor, indices: Sequence[int], folder: Path) -> Tensor:
        noise = draw_noise(indices, sum(t > 0 for t in steps), images.shape[1:], seed)
        return ensemble.views(images.float() / 255, noise.to(images.device))

    return Method("de", name, steps, views)


def _dda(network: ScoreNetwork, network_name: str, name: str, seed: int) -> Method:
    dda = DDA(network, start_timestep=START_TIMESTEP if name == "paper" else None)
    kept = f"{Path(network_name).stem}-dda-{dda.timesteps[-1]}"

    def views(images: Tensor, indices: Sequence[int], folder: Path) -> Tensor:
        return adapted_images(dda, images, indices, folder / kept, seed)[None]

    return Method("dda", name, dda.timesteps[-1:], views)


@torch.inference_mode()
def log_probabilities(classifier: nn.Module, views: Tensor) -> Tensor:
    """float32 (V, B, K) of views (V, B, C, H, W) in [0, 1]."""
    return torch.stack([classifier(view.float()).float().log_softmax(dim=-1) for view in views])


def mode_answers(raw: Tensor, method: Method, log_p: Tensor) -> dict[str, Tensor]:
    """Log-probabilities (B, K) of each mode that a method's views (V, B, K) and the raw images' (B, K) give."""
    mean = log_p.logsumexp(dim=0)
    return {"de": mean} if method.mode == "de" else {"dda": mean, "dda-se": RULES["mean"](raw, mean)}


def entropy(log_p: Tensor) -> Tensor:
    """In nats, (..., K) to (...)."""
    return -(log_p.exp() * log_p).nan_to_num().sum(dim=-1)
