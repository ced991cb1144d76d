"""DiffAugEnsemble: average a classifier over DiffAug's views of an image at several timesteps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..score import ScoreNetwork
from .checks import Normalize, as_normalize, as_timesteps, to_float, to_pixels
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
        max_batch: largest batch of views that the network and the classifier see at once; None: all
            ``B * |S|``, on a CPU as many as fit its cache.
        dtype, compile, differentiable, generator: as DiffAug's.

    Raises:
        As DiffAug; labels are never needed, so a conditional network must have a null class.

    Example:
        >>> classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
        >>> ensemble = DiffAugEnsemble(classifier, "cifar10")
        >>> ensemble.predict_proba(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        classifier: nn.Module,
        network: str | Path | ScoreNetwork = "cifar10",
        *,
        timesteps: Iterable[int] | int | None = None,
        normalize: Normalize = None,
        max_batch: int | None = None,
        dtype: torch.dtype | None = None,
        compile: bool = False,
        differentiable: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.normalize = as_normalize(normalize)
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

    @property
    def view_timesteps(self) -> tuple[int, ...]:
        """The set S in the order of the views, which is ``timesteps`` or the network's own, which loads it."""
        return self.timesteps or self.diffaug.network.ensemble_timesteps

    def views(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """The views ``(|S|, B, C, H, W)`` in [0, 1] of images (B, C, H, W) in [0, 1], in the order of S.

        ``noise`` is for the timesteps above 0, ``(|S without 0|, B, C, H, W)``; None draws it.
        """
        noise = self.draw_noise(images) if noise is None else self.check_noise(noise, images)
        steps = torch.tensor(self.view_timesteps, device=images.device)
        moved = steps[steps > 0]
        denoised = self.denoise(
            images.repeat(len(moved), 1, 1, 1), moved.repeat_interleave(len(images)), noise.flatten(0, 1)
        )
        views = images.repeat(len(steps), 1, 1, 1, 1)
        views[steps > 0] = denoised.unflatten(0, (len(moved), len(images)))
        return views

    def draw_noise(self, images: Tensor) -> Tensor:
        """Noise for all views of images (B, C, H, W): ``(|S without 0|, B, C, H, W)``."""
        repeated = images.expand(self._noise_shape(images))
        return self.diffaug.make_params([repeated])["noise"].reshape(repeated.shape)

    def check_noise(self, noise: Tensor, images: Tensor) -> Tensor:
        """The noise; ValueError where it is not of the shape that ``draw_noise`` gives."""
        shape = self._noise_shape(images)
        if noise.shape != shape:
            raise ValueError(f"noise must be (|S without 0|, B, C, H, W), {tuple(shape)}. Got {tuple(noise.shape)}")
        return noise

    def _noise_shape(self, images: Tensor) -> torch.Size:
        return torch.Size([sum(t > 0 for t in self.view_timesteps), *images.shape])

    def denoise(self, images: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """DiffAug of images (N, C, H, W) in [0, 1], each at its own of timesteps int64 (N,), all above 0."""
        return self.diffaug.transform(images, {"timesteps": timesteps, "noise": noise})

    def classify(self, views: Tensor) -> Tensor:
        """Logits ``(|S|, B, K)`` of views ``(|S|, B, C, H, W)``, in batches of at most ``max_batch``."""
        flat = views.flatten(0, 1)
        parts = flat.split(self.diffaug.max_batch or len(flat))
        return torch.cat([self._classify(part) for part in parts]).unflatten(0, views.shape[:2])

    def _classify(self, images: Tensor) -> Tensor:
        return self.classifier(self.normalize(images))


def log_mean_probabilities(logits: Tensor) -> Tensor:
    """log of the mean over the first dimension of softmax(logits), float32: (S, B, K) to (B, K)."""
    return logits.float().log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(logits))
