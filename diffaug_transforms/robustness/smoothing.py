"""Denoised smoothing: a certified l2 radius for any classifier, by one denoising step before it.

image + sigma noise ──signal_scale──▶ x_t ──score network──▶ denoised image ──▶ classifier ──▶ one vote
   [0, 1] pixels                    t of 2 sigma               [0, 1]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import PIL.Image
import torch
from torch import Tensor, nn

from ..score import NoiseSchedule, ScoreNetwork
from ..score.sampling import draw_like
from ..transforms.checks import Normalize, as_normalize, to_float, to_pixels
from ..transforms.diffaug import DiffAug
from .certificates import Certificate, certify_votes, import_stats, predict_votes


class DenoisedSmoothing(nn.Module):
    """Randomized smoothing of a classifier behind a one-step denoiser (Carlini et al., ICLR 2023, arXiv 2206.10550).

    The smoothed classifier answers with the class most probable under ``classifier(denoise(image + sigma noise))``,
    estimated and certified as in Cohen et al. (ICML 2019, arXiv 1902.02918). The noisy image in [-1, 1] has noise
    2 sigma; times the schedule's signal_scale it is the x_t of ``timestep``, the first >= 1 whose noise is no less.
    ``ethz-spylab/diffusion_denoised_smoothing`` chooses the same timestep, but adds that timestep's noise, 0.6 % more
    than a sigma of .25; here it is sigma's, the radius's own, as in the paper's algorithm.

    Args:
        classifier: any module from normalised images (B, C, H, W) to logits (B, K).
        network: as DiffAug's; conditional networks need a null class.
        sigma: standard deviation of the noise on [0, 1] pixels, above 0.
        normalize: as DiffAugEnsemble's; a callable may resize too, as the denoised images have the images' size.
        max_batch: largest batch of draws that the network and the classifier see at once; memory does not grow with
            the number of draws. None: all of them.
        dtype, compile, differentiable, generator: as DiffAug's.
        progress: show a progress bar over the draws.

    Raises:
        ValueError, TypeError: an argument out of range, a sigma beyond the network's schedule, images as DiffAug's.
        ImportError: SciPy, which the extra ``benchmarks`` installs, is missing (``certify`` and ``predict``).

    Example:
        >>> classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
        >>> smoothed = DenoisedSmoothing(classifier, "cifar10", sigma=0.5, max_batch=8)
        >>> smoothed.timestep
        259
        >>> prediction, radius = smoothed.certify(torch.rand(3, 32, 32), n0=8, n=16)
        >>> prediction in range(-1, 10), radius >= 0
        (True, True)
    """

    def __init__(
        self,
        classifier: nn.Module,
        network: str | Path | ScoreNetwork = "cifar10",
        sigma: float = 0.25,
        *,
        normalize: Normalize = None,
        max_batch: int | None = 100,
        dtype: torch.dtype | None = None,
        compile: bool = False,
        differentiable: bool = False,
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma must be finite and above 0. Got {sigma}")
        self.classifier = classifier
        self.normalize = as_normalize(normalize)
        self.sigma = sigma
        self.progress = progress
        self.diffaug = DiffAug(
            network,
            max_batch=max_batch,
            dtype=dtype,
            compile=compile,
            differentiable=differentiable,
            generator=generator,
        )
        if isinstance(network, ScoreNetwork):
            find_timestep(network.schedule, sigma)

    @property
    def timestep(self) -> int:
        """The network's timestep for noise 2 sigma; 145, 259, 396 of linear-1000 for sigma .25, .5, 1. Loads it."""
        return find_timestep(self.diffaug.network.schedule, self.sigma)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) for ONE draw per image: the base classifier, whose votes ``certify`` and ``predict`` count.

        It is random, and what one trains or attacks; the smoothed classifier's own answers are those of ``predict``.

        Args:
            images: uint8 or in [0, 1], (B, C, H, W).
        """
        batch = to_float(to_pixels(images))
        return self.classify(batch, next(draw_like(batch, self.diffaug.generator)))

    def classify(self, images: Tensor, noise: Tensor) -> Tensor:
        """Logits (B, K), deterministic for given noise.

        Args:
            images: float32 (B, C, H, W) in [0, 1].
            noise: like images, standard normal.
        """
        views = self.denoise(images, noise)
        parts = views.split(self.diffaug.max_batch or max(len(views), 1))
        return torch.cat([self.classifier(self.normalize(part)) for part in parts])

    def denoise(self, images: Tensor, noise: Tensor) -> Tensor:
        """Denoised images in [0, 1] of ``images + sigma * noise``; the arguments are those of ``classify``."""
        schedule, t = self.diffaug.network.schedule, self.timestep
        timesteps = torch.full((len(images),), t, device=images.device)
        # Diffusing adds noise of sigmas[t] to an image in [-1, 1]; this makes it 2 sigma.
        scaled = noise * (2 * self.sigma / float(schedule.sigmas[t]))
        denoised: Tensor = self.diffaug.transform(images, {"timesteps": timesteps, "noise": scaled})
        return denoised

    def certify(
        self, image: Tensor | PIL.Image.Image, n0: int = 100, n: int = 10_000, failure_probability: float = 0.001
    ) -> Certificate:
        """The class at one image and its certified radius (Cohen et al. 2019, CERTIFY).

        With probability of at least 1 - failure_probability over the draws, the smoothed classifier gives this class
        to every image less than ``radius`` away in l2, on [0, 1] pixels. The classifier is put into eval mode.

        Args:
            image: one image, uint8 or in [0, 1], (C, H, W).
            n0: draws that choose the class.
            n: further draws that bound its probability. No radius exceeds sigma * Phi^-1(failure_probability^(1/n)).
            failure_probability: Cohen's alpha, in (0, 1).
        """
        _check_draws(failure_probability, n0=n0, n=n)
        import_stats()  # missing, it is missed before the draws
        prediction = int(self.counts(image, self.draw_noise(image, n0)).argmax())
        count = int(self.counts(image, self.draw_noise(image, n))[prediction])
        return certify_votes(prediction, count, n, self.sigma, failure_probability)

    def predict(self, image: Tensor | PIL.Image.Image, n: int = 100, failure_probability: float = 0.001) -> int:
        """The smoothed classifier's class at one image, or ``ABSTAIN`` (Cohen et al. 2019, PREDICT).

        It is wrong with probability of at most ``failure_probability``: a two-sided binomial test of the two classes
        with the most of the ``n`` votes must tell them apart. The classifier is put into eval mode.
        """
        _check_draws(failure_probability, n=n)
        import_stats()
        return predict_votes(self.counts(image, self.draw_noise(image, n)), failure_probability)

    def draw_noise(self, image: Tensor | PIL.Image.Image, n: int) -> Iterator[Tensor]:
        """Noise for ``n`` draws of one image, in parts (at most max_batch, C, H, W)."""
        batch = self._as_batch(image)
        size = self.diffaug.max_batch or n
        for start in self._watch(range(0, n, size)):
            yield next(draw_like(batch.expand(min(size, n - start), -1, -1, -1), self.diffaug.generator))

    def counts(self, image: Tensor | PIL.Image.Image, noise: Iterable[Tensor]) -> Tensor:
        """The classes' votes over all draws, int64 (K,), deterministic. ``noise`` comes in parts, as ``draw_noise``'s.

        ValueError where the classifier's answers are NaN or are not logits of at least two classes.
        """
        self.eval()
        batch = self._as_batch(image)
        with torch.no_grad():
            votes = [_count(self.classify(batch.expand(len(part), -1, -1, -1), part)) for part in noise]
        return torch.stack(votes).sum(0)

    def _as_batch(self, image: Tensor | PIL.Image.Image) -> Tensor:
        pixels = to_pixels(image)
        if len(pixels) != 1:
            raise ValueError(f"image must be one image, (C, H, W). Got {len(pixels)} images")
        return to_float(pixels)

    def _watch(self, starts: range) -> Iterable[int]:
        if not self.progress:
            return starts
        from tqdm.auto import tqdm

        return cast(Iterable[int], tqdm(starts, unit="batch"))

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}"


def find_timestep(schedule: NoiseSchedule, sigma: float) -> int:
    """The schedule's timestep for noise ``sigma`` on [0, 1] pixels. ValueError where its noise never reaches that."""
    last = float(schedule.sigmas[-1]) / 2
    if sigma > last:
        raise ValueError(f"sigma must be at most {last:.4g}, half of the schedule's last. Got {sigma}")
    return schedule.timestep_for_sigma(2 * sigma)


def _count(logits: Tensor) -> Tensor:
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"classifier must return logits (B, K) of at least 2 classes. Got {tuple(logits.shape)}")
    # argmax would take NaN for the largest, and certify its place.
    if logits.isnan().any():
        raise ValueError(f"classifier must return no NaN. Got {int(logits.isnan().sum())} of {logits.numel()}")
    return torch.bincount(logits.argmax(1), minlength=logits.shape[1])


def _check_draws(failure_probability: float, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1. Got {number}")
    if not 0 < failure_probability < 1:
        raise ValueError(f"failure_probability must be in (0, 1). Got {failure_probability}")
