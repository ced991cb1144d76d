"""Denoised smoothing: a certified l2 radius for any classifier, by one denoising step before it.

image + sigma noise ──signal_scale──▶ x_t ──score network──▶ denoised image ──▶ classifier ──▶ one vote
   [0, 1] pixels                    t of 2 sigma               [0, 1]

The votes of many draws give a class and its radius: ``certify_votes``, ``predict_votes``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import PIL.Image
import torch
from torch import Tensor, nn

from ..arguments import (
    FLOATS,
    Normalize,
    as_integer,
    as_normalize,
    as_number,
    as_optional_integer,
    as_pixel_sigma,
    check_classifier,
    check_flags,
    check_generator,
    check_instance,
    check_tensor,
)
from ..classify import logits_of
from ..deprecated import renamed_attribute
from ..images import to_batch, to_pixels
from ..score import Denoiser, NoiseSchedule, ScoreNetwork
from ..score.denoiser import as_denoiser
from ..score.sampling import draw_like
from ..without_waiting import LateChecks

#: The prediction if the draws decide nothing.
ABSTAIN = -1


class Certificate(NamedTuple):
    """A class, or ``ABSTAIN``, and the l2 radius in pixels within which the smoothed classifier keeps to it."""

    prediction: int
    radius: float


class DenoisedSmoothing(nn.Module):
    """Randomized smoothing of a classifier behind a one-step denoiser (Carlini et al., ICLR 2023, arXiv 2206.10550).

    The smoothed classifier answers with the most probable class of ``classifier(denoise(image + sigma noise))``. The
    probability is estimated and certified as in Cohen et al. (ICML 2019, arXiv 1902.02918). The noisy image in [-1, 1]
    has noise 2 sigma. Times the schedule's signal_scale it is the x_t of ``timestep``, the first >= 1 with at least
    that much noise. ``ethz-spylab/diffusion_denoised_smoothing`` chooses the same timestep, but adds that timestep's
    noise, which is 0.6 % more than a sigma of 0.25. Here the noise is sigma's, as in the paper's algorithm.

    Args:
        classifier: any module from normalised images (B, C, H, W) to logits (B, K).
        network: as DiffAug's, or a Denoiser. Conditional networks need a null class.
        sigma: standard deviation of the noise on [0, 1] pixels, above 0.
        normalize: as DiffAugEnsemble's. A callable may resize too: denoised images have the images' size.
        max_batch: largest batch of draws that the network and the classifier see at once, so that memory does not grow
            with the number of draws. None: all of them, or the Denoiser's own.
        dtype, compile, differentiable: the Denoiser's, for a network that is not a Denoiser already.
        generator: source of the noise. None: torch's global one for the images' device.
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

    diffaug = renamed_attribute("DenoisedSmoothing.diffaug", "denoiser")

    def __init__(
        self,
        classifier: nn.Module,
        network: str | Path | ScoreNetwork | Denoiser = "cifar10",
        sigma: float = 0.25,
        *,
        normalize: Normalize = None,
        max_batch: int | None = 100,
        dtype: torch.dtype | None = None,
        compile: bool | str = False,
        differentiable: bool = False,
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        check_classifier(classifier)
        check_generator(generator)
        check_flags(progress=progress)
        self.classifier = classifier
        self.normalize = as_normalize(normalize)
        self.sigma = as_pixel_sigma("sigma", sigma, above=0)
        self.progress = progress
        self.generator = generator
        self._late_checks = LateChecks()
        max_batch = as_optional_integer("max_batch", max_batch, 1)
        if isinstance(network, Denoiser):
            max_batch = None  # its own
        self.denoiser = as_denoiser(
            network, max_batch=max_batch, dtype=dtype, compile=compile, differentiable=differentiable
        )
        if isinstance(network, ScoreNetwork):
            find_timestep(network.schedule, sigma)

    @property
    def timestep(self) -> int:
        """The network's timestep for noise 2 sigma; 145, 259, 396 of linear-1000 for sigma 0.25, 0.5, 1. Loads it."""
        return self._noise_level(self.sigma)[0]

    @torch.compiler.assume_constant_result  # for a compiled program, which cannot look sigma up
    def _noise_level(self, sigma: float) -> tuple[int, float]:
        """The timestep for sigma, and the schedule's own sigma at that timestep."""
        schedule = self.denoiser.network.schedule
        timestep = find_timestep(schedule, sigma)
        return timestep, schedule.host_sigmas[timestep]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K), float32, for ONE draw per image, for images uint8 or in [0, 1], (B, C, H, W).

        The output is random: use it for training or attacks. Use ``predict`` for the smoothed classifier's decision.
        """
        batch = to_batch(images, self._late_checks)
        return self.classify(batch, next(draw_like(batch, self.generator)))

    def classify(self, images: Tensor, noise: Tensor) -> Tensor:
        """Float32 logits (B, K) of images, float32 (B, C, H, W) in [0, 1], with standard normal noise of that shape."""
        views = self.denoise(images, noise)
        parts = views.split(self.denoiser.max_batch or max(len(views), 1))
        return torch.cat([logits_of(self.classifier, self.normalize, part) for part in parts])

    def denoise(self, images: Tensor, noise: Tensor) -> Tensor:
        """Denoised images in [0, 1] of ``images + sigma * noise``; the arguments are those of ``classify``."""
        check_tensor("noise", noise, FLOATS, "a floating point tensor")
        t, sigma_of_t = self._noise_level(self.sigma)
        timesteps = torch.full((len(images),), t, device=images.device)
        # Diffusing adds noise of sigmas[t] to an image in [-1, 1]; this makes it 2 sigma.
        scaled = noise * (2 * self.sigma / sigma_of_t)
        denoised: Tensor = self.denoiser(images, timesteps, scaled)
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
        prediction = int(self.counts(image, self.draw_noise(image, n0)).argmax())
        count = int(self.counts(image, self.draw_noise(image, n))[prediction])
        return certify_votes(prediction, count, n, self.sigma, failure_probability)

    def predict(self, image: Tensor | PIL.Image.Image, n: int = 100, failure_probability: float = 0.001) -> int:
        """The smoothed classifier's class at one image, or ``ABSTAIN`` (Cohen et al. 2019, PREDICT).

        It is wrong with probability of at most ``failure_probability``: a two-sided binomial test of the two classes
        with the most of the ``n`` votes must tell them apart. The classifier is put into eval mode.
        """
        _check_draws(failure_probability, n=n)
        return predict_votes(self.counts(image, self.draw_noise(image, n)), failure_probability)

    def draw_noise(self, image: Tensor | PIL.Image.Image, n: int) -> Iterator[Tensor]:
        """Noise for ``n`` draws of one image, in parts (at most max_batch, C, H, W)."""
        pixels, n = _check_one_image(to_pixels(image)), as_integer("n", n, 1)  # ``counts`` checks their values
        size = self.denoiser.max_batch or n
        starts: Any = range(0, n, size)
        if self.progress:
            from tqdm.auto import tqdm

            starts = tqdm(starts, unit="batch")
        for start in starts:
            yield next(draw_like(pixels.expand(min(size, n - start), -1, -1, -1), self.generator))

    def counts(self, image: Tensor | PIL.Image.Image, noise: Iterable[Tensor]) -> Tensor:
        """The classes' votes over all draws, int64 (K,), deterministic. ``noise`` comes in parts, as ``draw_noise``'s.

        ValueError if the classifier's answers are not logits for at least two classes, or, after all draws, if some
        were NaN. The votes are counted on the image's device, which is not waited for before the last draw.
        """
        self.eval()
        batch = _check_one_image(to_batch(image, self._late_checks))
        votes, nans, number = [], [], 0
        for part in noise:
            with torch.no_grad():
                logits = self.classify(batch.expand(len(part), -1, -1, -1), part)
            if logits.shape[1] < 2:
                shape = tuple(logits.shape)
                raise ValueError(f"classifier must return logits (B, K) of at least 2 classes. Got {shape}")
            classes = torch.arange(logits.shape[1], device=logits.device)
            votes.append((logits.argmax(1, keepdim=True) == classes).sum(0))
            nans.append(logits.isnan().sum())
            number += logits.numel()
        # argmax takes NaN for the largest, so certify would certify its place.
        if nan := int(torch.stack(nans).sum()):
            raise ValueError(f"classifier must return no NaN. Got {nan} of {number}")
        return torch.stack(votes).sum(0)

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}"


def _check_one_image(batch: Tensor) -> Tensor:
    if len(batch) != 1:
        raise ValueError(f"image must be one image, (C, H, W). Got {len(batch)} images")
    return batch


def find_timestep(schedule: NoiseSchedule, sigma: float) -> int:
    """The schedule's timestep for noise ``sigma`` on [0, 1] pixels. ValueError if its noise never reaches that."""
    first, last = (schedule.host_sigmas[t] / 2 for t in (schedule.timesteps[0], schedule.timesteps[-1]))
    sigma = as_number("sigma", sigma, above=0)
    if sigma > last:
        raise ValueError(f"sigma must be at most {last:.4g}, half of the schedule's last. Got {sigma}")
    if sigma < first and schedule.timesteps[0]:
        raise ValueError(f"sigma must be at least {first:.4g}, half of the network's smallest. Got {sigma}")
    return schedule.timestep_for_sigma(2 * sigma)


def _check_draws(failure_probability: float, **numbers: int) -> None:
    import_stats()  # fail before the expensive sampling if SciPy is missing
    for name, number in numbers.items():
        as_integer(name, number, 1)
    as_number("failure_probability", failure_probability, above=0, below=1)


def certify_votes(prediction: int, count: int, n: int, sigma: float, failure_probability: float) -> Certificate:
    """The certificate of a class chosen beforehand that won ``count`` of ``n`` draws (Cohen et al. 2019, CERTIFY).

    p is the lower bound of the class's probability. The radius is sigma * Phi^-1(p). The certificate abstains, with
    radius 0, if p is below 1/2.

    Example:
        >>> prediction, radius = certify_votes(3, count=990, n=1000, sigma=0.5, failure_probability=0.001)
        >>> prediction, round(radius, 3)
        (3, 0.989)
    """
    as_integer("prediction", prediction, 0)
    as_number("sigma", sigma, above=0)
    probability = lower_confidence_bound(count, n, failure_probability)
    if probability < 0.5:
        return Certificate(ABSTAIN, 0.0)
    return Certificate(prediction, sigma * NormalDist().inv_cdf(probability))


def predict_votes(votes: Tensor, failure_probability: float) -> int:
    """The class that won most of the votes, int (K,), or ``ABSTAIN`` (Cohen et al. 2019, PREDICT).

    A two-sided binomial test of the first two classes must reject, at level ``failure_probability``, that a vote for
    one of them goes to either with probability 1/2.
    """
    as_number("failure_probability", failure_probability, above=0, below=1)
    check_instance("votes", votes, Tensor)
    votes = votes.cpu()
    if votes.ndim != 1 or len(votes) < 2 or votes.is_floating_point() or int(votes.sum()) < 1 or votes.min() < 0:
        raise ValueError(f"votes must be counts of at least 2 classes and 1 draw, int (K,). Got {votes}")
    test = import_stats().binomtest
    most, classes = votes.topk(2)
    first, both = int(most[0]), int(most.sum())
    return int(classes[0]) if test(first, both, 0.5).pvalue <= failure_probability else ABSTAIN


def lower_confidence_bound(count: int, n: int, failure_probability: float) -> float:
    """Clopper and Pearson's one-sided lower bound of a probability, from ``count`` successes in ``n`` draws.

    The bound exceeds the true probability with probability of at most ``failure_probability``. For n successes in n
    draws it is failure_probability^(1/n).
    """
    n = as_integer("n", n, 1)
    count = as_integer("count", count, 0, n)
    as_number("failure_probability", failure_probability, above=0, below=1)
    test = import_stats().binomtest(count, n, alternative="greater")
    return float(test.proportion_ci(1 - failure_probability, "exact").low)


def import_stats() -> Any:
    """``scipy.stats``; ImportError that names the extra if SciPy is missing."""
    try:
        from scipy import stats
    except ImportError as error:
        raise ImportError(f'smoothing needs SciPy: pip install "diffaug-transforms[benchmarks]" ({error})') from error
    return stats
