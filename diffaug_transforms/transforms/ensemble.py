"""A classifier averaged at test time: over DiffAug's views (DiffAugEnsemble), or over an image and its adapted version.

images --denoised_views--> views, one a timestep --classifier--> softmax --mean--> p(y | x)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import Normalize, as_normalize, as_timesteps, check_classifier, check_generator, shown
from ..classify import logits_of
from ..deprecated import renamed_attribute
from ..images import check_channels, to_batch
from ..score import Denoiser, ScoreNetwork
from ..score.denoiser import as_denoiser
from ..score.timesteps import PAPER_SIZE
from ..without_waiting import LateChecks, kept_on, send


class DiffAugEnsemble(nn.Module):
    """A classifier averaged over one-step denoised views: p(y | x) = mean over t in S of softmax(classifier(view_t)).

    (Sastry et al., NeurIPS 2024, eq. 7.) It stands in for the classifier: images in, log-probabilities (B, K) out,
    which are valid logits. Every timestep gets fresh noise. t = 0 is the raw image.

    Args:
        classifier: any module from normalised images (B, C, H, W) to logits (B, K).
        network: as DiffAug's, or a Denoiser.
        timesteps: the set S; repeats weigh. None: the network's own ``ensemble_timesteps``, which are the paper's
            {0, 50, ..., 450} at 256 pixels and their match at other sizes. For a network of any size they are matched
            to the images' shorter side, and are the paper's from 224 pixels on.
        normalize: applied to [0, 1] images before the classifier: ``(mean, std)`` per channel, or any callable such
            as ``v2.Normalize(mean, std)``. None: nothing.
        max_batch: largest batch of views that the network and the classifier see at once. None: all ``B * |S|``; on a
            CPU the network sees as many as fit its cache.
        dtype, compile, differentiable: the Denoiser's, for a network that is not a Denoiser already.
        generator: source of the noise. None: torch's global one for the images' device.

    Raises:
        As DiffAug. Labels are never used, so a conditional network must have a null class.

    Example:
        >>> classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
        >>> ensemble = DiffAugEnsemble(classifier, "cifar10")
        >>> ensemble.predict_proba(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 10])
    """

    diffaug = renamed_attribute("DiffAugEnsemble.diffaug", "denoiser")

    def __init__(
        self,
        classifier: nn.Module,
        network: str | Path | ScoreNetwork | Denoiser = "cifar10",
        *,
        timesteps: Iterable[int] | int | None = None,
        normalize: Normalize = None,
        max_batch: int | None = None,
        dtype: torch.dtype | None = None,
        compile: bool | str = False,
        differentiable: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_classifier(classifier)
        check_generator(generator)
        self.classifier = classifier
        self.normalize = as_normalize(normalize)
        self.timesteps = as_timesteps(timesteps)
        self.denoiser = as_denoiser(
            network, max_batch=max_batch, dtype=dtype, compile=compile, differentiable=differentiable
        )
        self.generator = generator
        self._late_checks = LateChecks()
        if isinstance(network, ScoreNetwork):
            network.schedule.check_timesteps([t for t in self.timesteps or () if t])

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Log-probabilities (B, K), float32.

        Args:
            images: uint8, or floating point in [0, 1], (..., C, H, W): B images.
            noise: for the timesteps above 0, ``(|S without 0|, B, C, H, W)``. None draws it.
        """
        batch = to_batch(images, self._late_checks)
        if not batch.shape[0]:
            return self.classify(batch[None])[0].log_softmax(dim=-1)
        return log_mean_probabilities(self.classify(self.views(batch, noise)))

    @torch.no_grad()
    def predict_proba(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Probabilities (B, K), without gradients: the exponential of ``forward``."""
        return self(images, noise).exp()

    # As Denoiser's: torch.compile(ensemble) loads the network before it traces.
    _initialize_hook = True

    def _infer_parameters(self, *_: Any) -> None:
        self.denoiser.load()

    @property
    def view_timesteps(self) -> tuple[int, ...]:
        """``view_timesteps_for`` images of the network's own size; 224 pixels or more if it has none."""
        return self.view_timesteps_for((PAPER_SIZE, PAPER_SIZE))

    def view_timesteps_for(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The set S in the order of the views: ``timesteps``, or the network's own. Loads the network.

        ValueError for timesteps that the network does not take. t = 0 needs no network.

        Args:
            shape: of the images, (..., H, W). It matters only for a network without a size of its own.
        """
        timesteps = as_timesteps(self.timesteps)  # they may have been set since
        if timesteps is None:
            return self.denoiser.default_timesteps("ensemble", shape)
        self.denoiser.network.schedule.check_timesteps([t for t in timesteps if t])
        return timesteps

    def views(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """The views ``(|S|, B, C, H, W)`` in [0, 1], in the order of S. Arguments as in ``forward``, images float32."""
        noise = self.draw_noise(images) if noise is None else noise
        return denoised_views(self.denoiser, images, self.view_timesteps_for(images.shape), noise)

    def draw_noise(self, images: Tensor) -> Tensor:
        """Noise for all views of images (B, C, H, W): ``(|S without 0|, B, C, H, W)``."""
        source = images.device if self.generator is None else self.generator.device
        shape = (number_of_noisy(self.view_timesteps_for(images.shape)), *images.shape)
        noise = torch.randn(shape, generator=self.generator, device=source)
        return noise if source == images.device else send(noise, images.device)

    def classify(self, views: Tensor) -> Tensor:
        """Logits ``(|S|, B, K)``, float32, of views ``(|S|, B, C, H, W)``, in batches of at most ``max_batch``."""
        flat = views.flatten(0, 1)
        parts = flat.split(self.denoiser.max_batch) if self.denoiser.max_batch else [flat]
        logits = [logits_of(self.classifier, self.normalize, part) for part in parts]
        return torch.cat(logits).unflatten(0, views.shape[:2])


def denoised_views(denoiser: Denoiser, images: Tensor, timesteps: Sequence[int], noise: Tensor) -> Tensor:
    """One view of every image at every timestep, in [0, 1], ``(|S|, B, C, H, W)``; at t = 0 the image itself.

    Args:
        denoiser: brings the network.
        images: float32 (B, C, H, W) in [0, 1].
        timesteps: the set S.
        noise: standard normal, for the timesteps above 0, ``(|S without 0|, B, C, H, W)``.
    """
    noisy = [t for t in timesteps if t]
    check_noise(noise, len(noisy), images)
    if not noisy:
        check_channels(images, denoiser.network.in_channels)
        return images.repeat(len(timesteps), 1, 1, 1, 1)
    kept = images.device.type != "cpu" and not torch.compiler.is_compiling()
    t = kept_on(tuple(noisy), torch.int64, images.device) if kept else torch.tensor(noisy, device=images.device)
    t = t.repeat_interleave(images.shape[0])
    denoised = denoiser(images.repeat(len(noisy), 1, 1, 1), t, noise.flatten(0, 1))
    parts = iter(denoised.unflatten(0, (len(noisy), -1)))
    return torch.stack([next(parts) if t else images for t in timesteps])


def check_noise(noise: Tensor, views: int, images: Tensor) -> None:
    """TypeError unless the noise is a floating point tensor, ValueError unless it has a part for each noisy view."""
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        raise TypeError(f"noise must be a floating point tensor. Got {getattr(noise, 'dtype', shown(noise))}")
    shape = (views, *images.shape)
    if noise.shape != shape:
        raise ValueError(f"noise must be (|S without 0|, B, C, H, W), {shape}. Got {tuple(noise.shape)}")


def number_of_noisy(timesteps: Sequence[int]) -> int:
    """How many of the timesteps need noise and the network: those above 0."""
    return len(timesteps) - timesteps.count(0)


def log_mean_probabilities(logits: Tensor) -> Tensor:
    """log of the mean over the first dimension of softmax(logits): (S, B, K) to (B, K)."""
    return logits.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(logits))


class SelfEnsemble(nn.Module):
    """A classifier asked twice, about the image and about its adapted version: p(y | x) = (p + q) / 2.

    (Gao et al., CVPR 2023, "Back to the Source: Diffusion-Driven Adaptation to Test-Time Corruption"; rule "sum" of
    ``model_adapt/evaluation.py`` in shiyegao/DDA.) It stands in for the classifier: images in, log-probabilities (B, K)
    out, which are valid logits.

    Args:
        classifier: any module from normalised images (B, C, H, W) to logits (B, K).
        adapt: module or callable from float32 images (B, C, H, W) in [0, 1] to adapted images of the same shape and
            range, or uint8: ``DDA(...)``, or ``DiffAug(...)``.
        normalize: as DiffAugEnsemble's. ``adapt`` sees images that are not normalised.

    Raises:
        TypeError: ``adapt`` is not callable, or returns no tensor. ValueError: in the call, images that are not uint8
            or in [0, 1], or an ``adapt`` that returns another shape or range.

    Example:
        >>> classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
        >>> robust = SelfEnsemble(classifier, DiffAug("cifar10", timesteps=[30]))
        >>> robust(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self, classifier: nn.Module, adapt: Callable[[Tensor], Tensor], *, normalize: Normalize = None
    ) -> None:
        super().__init__()
        check_classifier(classifier)
        if not callable(adapt):
            raise TypeError(f"adapt must be callable. Got {shown(adapt)}")
        self.classifier = classifier
        self.adapt = adapt
        self.normalize = as_normalize(normalize)
        self._late_checks = LateChecks()

    def forward(self, images: Tensor) -> Tensor:
        """Log-probabilities (B, K), float32, for B images uint8 or in [0, 1], (..., C, H, W)."""
        batch = to_batch(images, self._late_checks)
        adapted = self.adapt(batch) if batch.shape[0] else batch
        if not isinstance(adapted, Tensor):
            raise TypeError(f"adapt must return images, a tensor. Got {shown(adapted)}")
        if adapted.shape != batch.shape:
            raise ValueError(f"adapt must return its images' shape, {tuple(batch.shape)}. Got {tuple(adapted.shape)}")
        both = (batch, to_batch(adapted, self._late_checks))
        logits = [logits_of(self.classifier, self.normalize, seen) for seen in both]
        return log_mean_probabilities(torch.stack(logits))

    @torch.no_grad()
    def predict_proba(self, images: Tensor) -> Tensor:
        """Probabilities (B, K), without gradients: the exponential of ``forward``."""
        return self(images).exp()
