"""What gradients.py measures: the gradients of a classifier in each mode, and what they are held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from diffaug_transforms import DiffAug, ScoreNetwork
from diffaug_transforms.robustness import gradient_alignment, input_gradient
from diffaug_transforms.score import diffuse, to_signed


def read_images(data: Any, places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) in [0, 1] and their labels (B,), on the GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.stack([data[place] for place in places]).to(device).float() / 255
    return images, torch.tensor([data.labels[place][0] for place in places], device=device)


class Mode(NamedTuple):
    """A gradient is of classifier(through(images)) by images; ``seen`` is through(images)."""

    images: Tensor
    through: Callable[[Tensor], Tensor] | None
    seen: Tensor


def open_modes(augment: DiffAug, images: Tensor, t: int, noise: Tensor) -> dict[str, Mode]:
    """The modes that depend on t; ``noise`` is like ``images``, (B, C, H, W)."""
    params = {"timesteps": torch.full((len(images),), t, device=images.device), "noise": noise}
    with torch.no_grad():
        view = augment.transform(images, params)
    added = augment.network.schedule.sigmas[t] / 2 * noise  # sigmas are on [-1, 1]
    return {
        "noisy": Mode(images, partial(torch.add, added), images + added),
        "partial": Mode(view, None, view),
        "total": Mode(images, partial(augment.transform, params=params), view),
    }


def label_gradient(network: ScoreNetwork, images: Tensor, labels: Tensor, t: int, noise: Tensor) -> Tensor:
    """The network's own gradient of log p_t(label | x_t) by x_t: its score with the label minus the one without."""
    timesteps = torch.full((len(images),), t, device=images.device)
    with torch.no_grad():
        x_t = diffuse(to_signed(images), timesteps, noise, network.schedule)
        return network.score(x_t, timesteps, labels) - network.score(x_t, timesteps)


def of_classifier(classifier: nn.Module, mode: Mode, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the predicted class's logit, and of the true label's log-probability."""
    with torch.no_grad():
        predicted = classifier(mode.seen).argmax(dim=1)
    of_logit = input_gradient(classifier, mode.images, predicted, through=mode.through, output="logit")
    return of_logit, input_gradient(classifier, mode.images, labels, through=mode.through)


def pull_back(gradients: Tensor, mode: Mode) -> Tensor:
    """Gradients by the images that follow from these by what a classifier sees."""

    def linear(seen: Tensor) -> Tensor:
        return (seen * gradients).sum((1, 2, 3))[:, None]

    return input_gradient(linear, mode.images, [0] * len(gradients), through=mode.through, output="logit")


def alignments(images: Tensor, of_logit: Tensor) -> dict[str, Tensor]:
    centred = images - images.mean((2, 3), keepdim=True)
    return {
        "alignment": gradient_alignment(images, of_logit),
        "cosine": gradient_alignment(images, of_logit, cosine=True),
        "centred_cosine": gradient_alignment(centred, of_logit, cosine=True),
    }


def score_cosine(of_log_probability: Tensor, target: Tensor) -> dict[str, Tensor]:
    return {"score_cosine": cosine_similarity(of_log_probability.flatten(1), target.flatten(1))}
