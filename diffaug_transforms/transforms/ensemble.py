"""DiffAugEnsemble: average a classifier over DiffAug's views of an image at several timesteps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from ..score import ScoreNetwork
from .checks import as_timesteps, to_float, to_pixels
from .diffaug import DiffAug


class DiffAugEnsemble(nn.Module):
    """A classifier averaged over one-step denoised views: p(y | x) = mean over t in S of softmax(classifier(view_t)).

    (Sastry et al., NeurIPS 2024, eq. 7.) It stands where the classifier stood: images in, log-probabilities (B, K)
    out, which are valid logits. Every timestep gets fresh noise; t = 0 is the raw image.

    Args:
        classifier: any module from normalised images (B, C, H, W) to logits (B, K).
        network: as DiffAug's.
        timesteps: the set S; repeats weigh. None: the network's own ``ensemble_timesteps``, which are the paper's
            {0, 50, ..., 450} at 256 pixels and their match at other sizes.
        normalize: applied to [0, 1] images before the classifier: ``(mean, std)`` per channel, or any callable such
            as ``v2.Normalize(mean, std)``; None: nothing.
        max_batch: largest batch of views that the network and the classifier see at once; None: all B * |S|.
        dtype, compile, differentiable, generator: as DiffAug's.

    Raises:
        As DiffAug; labels are never needed, so a conditional network must have a null class.

    Example:
        >>> classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
        >>> ensemble = DiffAugEnsemble(classifier, "cifar10")
        >>> ensemble.predict_proba(torch.rand(4, 3, 32, 32)).sum(dim=1)
        tensor([1.0000, 1.0000, 1.0000, 1.0000], grad_fn=<SumBackward1>)
    """

    def __init__(
        self,
        classifier: nn.Module,
        network: str | Path | ScoreNetwork = "cifar10",
        *,
        timesteps: Iterable[int] | int | None = None,
        normalize: Callable[[Tensor], Tensor] | tuple[Sequence[float], Sequence[float]] | None = None,
        max_batch: int | None = None,
        dtype: torch.dtype | None = None,
        compile: bool = False,
        differentiable: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.normalize = v2.Normalize(*normalize) if isinstance(normalize, tuple) else normalize
        self.timesteps = as_timesteps(timesteps)
        self.diffaug = DiffAug(
            network,
            timesteps=self.timesteps,
            max_batch=max_batch,
            dtype=dtype,
            compile=compile,
            differentiable=differentiable,
            generator=generator,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Log-probabilities (B, K), float32, of images uint8 or in [0, 1], (B, C, H, W)."""
        batch = to_float(to_pixels(images))
        logits = self.classify(self.views(batch)) if len(batch) else self._classify(batch)[None]
        return log_mean_probabilities(logits)

    def predict_proba(self, images: Tensor) -> Tensor:
        """Probabilities (B, K): the exponential of ``forward``."""
        return self(images).exp()

    def views(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """The views (|S|, B, C, H, W) in [0, 1] of images (B, C, H, W) in [0, 1], in the order of S.

        ``noise`` is for the timesteps above 0, (|S without 0|, B, C, H, W); None draws it.
        """
        steps = torch.tensor(self.timesteps or self.diffaug.network.ensemble_timesteps)
        moved = int((steps > 0).sum())
        repeated = images.repeat(moved, 1, 1, 1)
        if noise is None:
            params = self.diffaug.make_params([repeated])
        else:
            selected = torch.ones(len(repeated), dtype=torch.bool, device=images.device)
            params = {"noise": noise.reshape(repeated.shape), "selected": selected}
        params["timesteps"] = steps[steps > 0].repeat_interleave(len(images)).to(images.device)
        denoised = self.diffaug.transform(repeated, params).unflatten(0, (moved, len(images)))
        views = images.repeat(len(steps), 1, 1, 1, 1)
        views[(steps > 0).to(images.device)] = denoised
        return views

    def classify(self, views: Tensor) -> Tensor:
        """Logits (|S|, B, K) of views (|S|, B, C, H, W), in batches of at most ``max_batch``."""
        flat = views.flatten(0, 1)
        parts = flat.split(self.diffaug.max_batch or len(flat))
        return torch.cat([self._classify(part) for part in parts]).unflatten(0, views.shape[:2])

    def _classify(self, images: Tensor) -> Tensor:
        return self.classifier(self.normalize(images) if self.normalize is not None else images)


def log_mean_probabilities(logits: Tensor) -> Tensor:
    """log of the mean over the first dimension of softmax(logits), float32: (S, B, K) to (B, K)."""
    return logits.float().log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(logits))
