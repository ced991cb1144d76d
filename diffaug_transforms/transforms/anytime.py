"""AnytimeEnsemble: DiffAugEnsemble, view by view, until the answer can no longer change."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..arguments import as_integer, as_number, shown
from ..images import check_channels, to_batch
from ..without_waiting import LateChecks
from .ensemble import DiffAugEnsemble, check_noise, number_of_noisy

#: Sums of float32 probabilities may be off by this. It is added to the bound, so that rounding decides nothing.
MARGIN = 1e-4


class AnytimePrediction(NamedTuple):
    """The answer of ``AnytimeEnsemble.predict``.

    Attributes:
        log_probabilities: (B, K), float32, log of the mean probabilities over the views that the image saw.
        views: int64 (B,), how many views those were, ``1...|S|``.
        network_calls: int64 (B,), how many of them needed the network: those with t > 0.
    """

    log_probabilities: Tensor
    views: Tensor
    network_calls: Tensor


class AnytimeEnsemble(nn.Module):
    """A DiffAugEnsemble that adds its views one by one, in the order of S, and drops the images that are decided.

    Each of the m remaining views adds at most 1 to the summed probability of a class, and at least 0 to that of the
    leader. So an image keeps its answer if its leader is more than m ahead of every other class.

    Without ``confidence`` the answers (argmax) are the whole ensemble's, given the same noise, a classifier in eval
    mode, and up to rounding. The probabilities differ, because they are means over fewer views. With 10 views, this
    exact rule can stop after view 6 at the earliest, because 4 remaining views cannot outvote 6 fully confident ones.
    It saves at most 4 of the 9 network calls. With ``confidence`` images stop sooner, and some answers change.

    Noise is drawn for all views beforehand, as the ensemble draws it: from the same seed both see the same views.

    Args:
        ensemble: the ensemble to run; its options hold here too.
        confidence: in (0, 1]: stop also if the leader's mean probability over the views so far is at least this. A
            value up to 1/K stops every image at ``min_views``. None: stop only if the answer is safe.
        min_views: how many views ``confidence`` waits for. The exact rule needs no such minimum.

    Raises:
        TypeError: ``ensemble`` is no DiffAugEnsemble, or another argument no number. ValueError: ``confidence`` or
            ``min_views`` out of range.

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
            raise TypeError(f"ensemble must be a DiffAugEnsemble. Got {shown(ensemble)}")
        self.ensemble = ensemble
        self.confidence = None if confidence is None else as_number("confidence", confidence, above=0, at_most=1)
        self.min_views = as_integer("min_views", min_views, 1)
        self._late_checks = LateChecks()

    def forward(self, images: Tensor) -> Tensor:
        """Log-probabilities (B, K), float32, for B images uint8 or in [0, 1], (..., C, H, W)."""
        return self.predict(images).log_probabilities

    @torch.no_grad()
    def predict_proba(self, images: Tensor) -> Tensor:
        """Probabilities (B, K), without gradients: the exponential of ``forward``."""
        return self(images).exp()

    def predict(self, images: Tensor, noise: Tensor | None = None) -> AnytimePrediction:
        """Log-probabilities, and what they cost, for B images uint8 or in [0, 1], (..., C, H, W).

        ``noise`` is as in ``DiffAugEnsemble.forward``: ``(|S without 0|, B, C, H, W)``. None draws it.
        """
        batch = to_batch(images, self._late_checks)
        timesteps = self.ensemble.view_timesteps_for(batch.shape)
        check_channels(batch, self.ensemble.denoiser.network.in_channels)
        noise = self.ensemble.draw_noise(batch) if noise is None else noise
        check_noise(noise, number_of_noisy(timesteps), batch)
        draws = iter(noise)
        views, calls = torch.zeros(2, len(batch), dtype=torch.int64, device=batch.device)
        undecided = torch.arange(len(batch), device=batch.device)
        log_total = None
        for seen, t in enumerate(timesteps, start=1):
            log_p = self._log_probabilities(batch[undecided], t, next(draws)[undecided] if t else None)
            added = log_p if log_total is None else torch.logaddexp(log_total[undecided], log_p)
            log_total = added if log_total is None else log_total.index_copy(0, undecided, added)
            views[undecided] += 1
            calls[undecided] += t > 0
            remaining = len(timesteps) - seen
            if self._may_decide(seen, remaining, added.shape[1]):  # if not, the host need not wait for the device
                done = decided(added.detach().exp(), seen, remaining, self.confidence, self.min_views)
                undecided = undecided[~done]
            if not len(undecided):
                break
        return AnytimePrediction(log_total - views[:, None].log(), views, calls)

    def _may_decide(self, seen: int, remaining: int, classes: int) -> bool:
        """Whether an image can be decided here while views are left. A leader is at most ``seen`` ahead."""
        confident = self.confidence is not None and seen >= self.min_views
        return remaining > 0 and (seen > remaining or confident or classes == 1)

    def _log_probabilities(self, images: Tensor, t: int, noise: Tensor | None) -> Tensor:
        """Log-probabilities (B, K) of the views at timestep t; without noise, of the images as they are."""
        if noise is not None:
            timesteps = torch.full((len(images),), t, device=images.device)
            images = self.ensemble.denoiser(images, timesteps, noise)
        return self.ensemble.classify(images[None])[0].log_softmax(dim=-1)

    def extra_repr(self) -> str:
        return f"confidence={self.confidence}, min_views={self.min_views}"


def decided(total: Tensor, seen: int, remaining: int, confidence: float | None = None, min_views: int = 2) -> Tensor:
    """Which images need no further view, bool (B,).

    Args:
        total: (B, K), the probabilities summed over the views seen.
        seen: how many views those were; ``remaining``: how many are left.
        confidence, min_views: as AnytimeEnsemble's.
    """
    if remaining == 0 or total.shape[1] == 1:
        return torch.ones(len(total), dtype=torch.bool, device=total.device)
    first, second = total.topk(2, dim=1).values.unbind(dim=1)
    done = first - second > remaining + MARGIN
    if confidence is not None and seen >= min_views:
        done |= first >= confidence * seen
    return done
