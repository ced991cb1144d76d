"""AnytimeEnsemble: DiffAugEnsemble, view by view, until the answer can no longer change."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .checks import to_float, to_pixels
from .ensemble import DiffAugEnsemble

#: Sums of float32 probabilities may be off by this; asked for on top of the bound, so that rounding settles nothing.
MARGIN = 1e-4


class AnytimePrediction(NamedTuple):
    """What ``AnytimeEnsemble.predict`` returns.

    Attributes:
        log_probabilities: (B, K), float32, log of the mean probabilities over the views that the image saw.
        views: int64 (B,), how many those were, ``1...|S|``.
        network_calls: int64 (B,), how many of them needed the network: those with t > 0.
    """

    log_probabilities: Tensor
    views: Tensor
    network_calls: Tensor


class AnytimeEnsemble(nn.Module):
    """A DiffAugEnsemble that adds its views one by one, in the order of S, and drops the images that are settled.

    Each of the m views to come adds at most 1 to the probabilities summed for a class and at least 0 to the leader's,
    so an image whose leader is more than m ahead of every other class keeps its answer whatever they show.

    Without ``confidence`` the answers (argmax) are so the whole ensemble's, given the same noise, a classifier in eval
    mode and up to rounding; the probabilities are not, for they are means over fewer views. Of ``|S|`` = 10 views even
    fully confident ones must be 6 before 4 cannot undo them: at most 4 of the network's 9 calls are saved. With
    ``confidence`` images stop sooner, at the price of some answers: accuracy is traded for calls.

    Noise is drawn for all views beforehand, as the ensemble draws it: from the same seed both see the same views.

    Args:
        ensemble: what to run; its ``max_batch`` and the rest hold here too.
        confidence: in (0, 1]: stop also where the leader's mean probability over the views so far is at least this
            (a value up to 1/K stops every image at ``min_views``); None: only where the answer is safe.
        min_views: how many views ``confidence`` waits for; the bound needs no such minimum.

    Raises:
        TypeError: for an ensemble that is none. ValueError: for ``confidence`` or ``min_views`` out of range.

    Example:
        >>> classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
        >>> anytime = AnytimeEnsemble(DiffAugEnsemble(classifier, "cifar10", timesteps=[0, 10, 20]), confidence=0.9)
        >>> prediction = anytime.predict(torch.rand(4, 3, 32, 32))
        >>> prediction.log_probabilities.shape, bool((prediction.views <= 3).all())
        (torch.Size([4, 10]), True)
    """

    def __init__(self, ensemble: DiffAugEnsemble, *, confidence: float | None = None, min_views: int = 2) -> None:
        super().__init__()
        if not isinstance(ensemble, DiffAugEnsemble):
            raise TypeError(f"ensemble must be a DiffAugEnsemble. Got {type(ensemble).__name__}")
        if confidence is not None and not 0 < confidence <= 1:
            raise ValueError(f"confidence must be in (0, 1]. Got {confidence}")
        if min_views < 1:
            raise ValueError(f"min_views must be at least 1. Got {min_views}")
        self.ensemble = ensemble
        self.confidence = confidence
        self.min_views = min_views

    def forward(self, images: Tensor) -> Tensor:
        """Log-probabilities (B, K), float32, of images uint8 or in [0, 1], (B, C, H, W)."""
        return self.predict(images).log_probabilities

    def predict_proba(self, images: Tensor) -> Tensor:
        """Probabilities (B, K): the exponential of ``forward``."""
        return self(images).exp()

    def predict(self, images: Tensor, noise: Tensor | None = None) -> AnytimePrediction:
        """Log-probabilities, and what they cost, of images uint8 or in [0, 1], (B, C, H, W).

        ``noise`` is as in ``DiffAugEnsemble.views``: ``(|S without 0|, B, C, H, W)``; None draws it.
        """
        batch, timesteps = to_float(to_pixels(images)), self.ensemble.view_timesteps
        noise = self.ensemble.draw_noise(batch) if noise is None else self.ensemble.check_noise(noise, batch)
        draws = iter(noise)
        views, calls = torch.zeros(2, len(batch), dtype=torch.int64, device=batch.device)
        unsettled = torch.arange(len(batch), device=batch.device)
        log_total = None
        for seen, t in enumerate(timesteps, start=1):
            log_p = self._log_probabilities(batch[unsettled], t, next(draws)[unsettled] if t else None)
            added = log_p if log_total is None else torch.logaddexp(log_total[unsettled], log_p)
            log_total = added if log_total is None else log_total.index_copy(0, unsettled, added)
            views[unsettled] += 1
            calls[unsettled] += t > 0
            done = settled(added.detach().exp(), seen, len(timesteps) - seen, self.confidence, self.min_views)
            unsettled = unsettled[~done]
            if not len(unsettled):
                break
        return AnytimePrediction(log_total - views[:, None].log(), views, calls)

    def _log_probabilities(self, images: Tensor, t: int, noise: Tensor | None) -> Tensor:
        """Log-probabilities (B, K) of the views at timestep t; without noise, of the images as they are."""
        if noise is not None:
            images = self.ensemble.denoise(images, torch.full((len(images),), t, device=images.device), noise)
        return self.ensemble.classify(images[None])[0].float().log_softmax(dim=-1)

    def extra_repr(self) -> str:
        return f"confidence={self.confidence}, min_views={self.min_views}"


def settled(total: Tensor, seen: int, remaining: int, confidence: float | None = None, min_views: int = 2) -> Tensor:
    """Which images need no further view, bool (B,).

    Args:
        total: (B, K), the probabilities summed over the views seen.
        seen: how many those were; ``remaining``: how many are to come.
        confidence, min_views: as AnytimeEnsemble's.
    """
    if remaining == 0 or total.shape[1] == 1:
        return torch.ones(len(total), dtype=torch.bool, device=total.device)
    first, second = total.topk(2, dim=1).values.unbind(dim=1)
    done = first - second > remaining + MARGIN
    if confidence is not None and seen >= min_views:
        done |= first >= confidence * seen
    return done
