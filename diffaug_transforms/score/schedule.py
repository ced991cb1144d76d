"""Noise schedules: betas -> signal_scale, noise_scale -> sigmas, and from a sigma back to a timestep.

    x_t = signal_scale[t] * x_0 + noise_scale[t] * noise,    x_0 in [-1, 1]
    sigmas[t] = noise_scale[t] / signal_scale[t]             the noise on x_0's own scale

Variance-preserving schedules (Ho et al. 2020) shrink the image at every step: signal_scale is sqrt(alphas_cumprod),
noise_scale sqrt(1 - alphas_cumprod). Variance-exploding ones (Song et al. 2021) only add noise: signal_scale is 1.
Everything is computed in float64 and kept in float32.
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_integer, as_number, as_timesteps, check_choice, check_flags, shown
from ..deprecated import renamed_attribute, warn_renamed
from ..without_waiting import LateChecks, held_within, send

#: The paper's draw for DiffAug in training, and its set S for the ensemble (Sastry et al., NeurIPS 2024).
AUGMENT_TIMESTEPS = range(1000)
ENSEMBLE_TIMESTEPS = range(0, 451, 50)


def linear_betas(num_timesteps: int = 1000) -> Tensor:
    """``linspace(1e-4, 0.02, T)`` scaled by 1000 / T (Ho et al. 2020; ``improved-diffusion``). float64 (T,).

    T is at least 21: with fewer steps the last beta would not be below 1.
    """
    scale = 1000 / as_integer("num_timesteps", num_timesteps, 21)
    return torch.linspace(scale * 1e-4, scale * 0.02, num_timesteps, dtype=torch.float64)


def cosine_betas(num_timesteps: int = 1000) -> Tensor:
    """Betas of alphas_cumprod(t) = cos^2((t + 0.008) / 1.008 pi / 2), at most 0.999 (Nichol & Dhariwal 2021, 17)."""
    num_timesteps = as_integer("num_timesteps", num_timesteps, 1)
    t = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
    alphas_cumprod = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).clamp(max=0.999)


BETAS = {"linear": linear_betas, "cosine": cosine_betas}


def rescale_to_zero_snr(betas: Tensor) -> Tensor:
    """Betas whose last timestep has no signal (Lin et al. 2023, algorithm 1), but at most 0.999, as cosine's. (T,)."""
    signal = torch.cumprod(1 - betas, dim=0).sqrt()
    signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    alphas_cumprod = signal**2
    return (1 - alphas_cumprod / torch.cat([torch.ones_like(signal[:1]), alphas_cumprod[:-1]])).clamp(max=0.999)


class NoiseSchedule:
    """A noise schedule over timesteps 0...T-1, variance-preserving or variance-exploding.

    Args:
        betas: (T,) variance added at each step. Each lies in (0, 1), or only above 0 for variance-exploding schedules.
        variance_preserving: True: a step shrinks the image, x_t = sqrt(1 - betas[t]) x_{t-1} + sqrt(betas[t]) noise.
            False: a step only adds noise, x_t = x_{t-1} + sqrt(betas[t]) noise.

    Attributes:
        exact_betas: the betas in float64, for files.
        host_sigmas: ``sigmas`` as a list, for questions that must not wait for a device.
        timesteps: the range of timesteps that the network takes: 0...T-1, or fewer after ``limited``.
        betas, alphas_cumprod, sigmas: float32 (T,). alphas_cumprod is 1 for variance-exploding schedules.
        signal_scale, noise_scale: float32 (T,), the factors of x_0 and of the noise in x_t.
        posterior_log_variance: float32 (T,), log of the variance of x_{t-1} given x_t and x_0 (Ho et al. 2020, eq. 7;
            Song et al. 2021, eq. 47). Entry 0 would be -inf; it repeats entry 1, as in OpenAI's code.
        log_betas, fixed_large_log_variance: float32 (T,), the upper end of the learned variance. OpenAI's "fixed
            large" variance replaces entry 0 too.
        posterior_mean_coef1, posterior_mean_coef2: float32 (T,), the factors of x_0 and of x_t in the mean of x_{t-1}
            given x_t and x_0 (Ho et al. 2020, eq. 7). The names are those of OpenAI's code.

    Raises:
        ValueError: the betas are no vector of values in the range above.

    Example:
        >>> schedule = NoiseSchedule.named("linear", 1000)
        >>> schedule.num_timesteps, schedule.timestep_for_sigma(0.5)
        (1000, 145)
    """

    posterior_x_0 = renamed_attribute("NoiseSchedule.posterior_x_0", "posterior_mean_coef1")
    posterior_x_t = renamed_attribute("NoiseSchedule.posterior_x_t", "posterior_mean_coef2")

    def __init__(self, betas: Tensor, *, variance_preserving: bool = True, exploding: bool | None = None) -> None:
        if exploding is not None:
            warn_renamed("NoiseSchedule(exploding=)", "variance_preserving=, its opposite")
            variance_preserving = not exploding
        check_flags(variance_preserving=variance_preserving)
        try:
            betas = torch.as_tensor(betas, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"betas must be a vector of numbers. Got {shown(betas)}") from error
        largest = 1 if variance_preserving else math.inf
        if betas.ndim != 1 or not len(betas) or not bool(((betas > 0) & (betas < largest)).all()):
            raise ValueError(f"betas must be a vector of values in (0, {largest}). Got {betas}")
        self.variance_preserving = variance_preserving
        self.exact_betas: list[float] = betas.tolist()
        signal, noise = squared_scales(betas, variance_preserving)
        previous_signal = torch.cat([torch.ones(1, dtype=torch.float64), signal[:-1]])
        previous_noise = torch.cat([torch.zeros(1, dtype=torch.float64), noise[:-1]])
        posterior_variance = betas * previous_noise / noise
        posterior_variance[0] = posterior_variance[1] if len(betas) > 1 else betas[0]
        fixed_large_variance = torch.cat([posterior_variance[:1], betas[1:]])
        self.betas = betas.float()
        self.alphas_cumprod = signal.float()
        self.sigmas = (noise / signal).sqrt().float()
        self.host_sigmas: list[float] = self.sigmas.tolist()
        self.timesteps = range(len(betas))
        self.log_betas = betas.log().float()
        self.posterior_log_variance = posterior_variance.log().float()
        self.fixed_large_log_variance = fixed_large_variance.log().float()
        self.posterior_mean_coef1 = (betas * previous_signal.sqrt() / noise).float()
        self.posterior_mean_coef2 = (previous_noise * (signal / previous_signal).sqrt() / noise).float()
        # Kept apart: 1 - alphas_cumprod in float32 would lose half its digits at small t.
        self.signal_scale = signal.sqrt().float()
        self.noise_scale = noise.sqrt().float()

    @classmethod
    def named(cls, name: str, num_timesteps: int = 1000) -> NoiseSchedule:
        """The ``"linear"`` or ``"cosine"`` schedule of OpenAI's repositories. ValueError for another name."""
        check_choice("noise schedule", name, BETAS)
        return cls(BETAS[name](num_timesteps))

    @classmethod
    def variance_exploding(cls, sigma_min: float, sigma_max: float, num_timesteps: int = 2000) -> NoiseSchedule:
        """signal_scale 1 and sigmas = sigma_min (sigma_max / sigma_min)^(t / (T-1)) (Song et al. 2021, appendix C).

        Args:
            sigma_min, sigma_max: on the [-1, 1] scale: twice those of networks that were trained on [0, 1] images.
            num_timesteps: T, at least 2.

        Example:
            >>> NoiseSchedule.variance_exploding(0.02, 100, 1000)  # Song et al.'s networks on CIFAR-10
            NoiseSchedule(T=1000, sigmas 0.02...100)
        """
        sigma_min = as_number("sigma_min", sigma_min, above=0)
        sigma_max = as_number("sigma_max", sigma_max, above=sigma_min)
        num_timesteps = as_integer("num_timesteps", num_timesteps, 2)
        share = torch.linspace(0, 1, num_timesteps, dtype=torch.float64)
        variances = (sigma_min * (sigma_max / sigma_min) ** share) ** 2
        return cls(torch.diff(variances, prepend=torch.zeros(1, dtype=torch.float64)), variance_preserving=False)

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> NoiseSchedule:
        """The schedule of a diffusers scheduler, from its configuration if that says more than its float32 betas.

        1 - beta has a relative error of 6e-5 in float32 if beta is 0.999, as at the end of the cosine schedule.

        Args:
            scheduler: one with betas (DDPM, DDIM, ...), or ScoreSdeVeScheduler, whose sigmas are added to images in
                [0, 1] and are doubled here for [-1, 1].

        Raises:
            ValueError: another scheduler, or rescale_betas_zero_snr with a rarer schedule.
        """
        config = getattr(scheduler, "config", {})
        if hasattr(scheduler, "discrete_sigmas"):
            sigma_min, sigma_max = 2 * config["sigma_min"], 2 * config["sigma_max"]
            return cls.variance_exploding(sigma_min, sigma_max, config["num_train_timesteps"])
        betas = getattr(scheduler, "betas", None)
        if betas is None:
            wanted = "one with betas (DDPM, DDIM, ...) or ScoreSdeVeScheduler"
            raise ValueError(f"scheduler must be {wanted}. Got {type(scheduler).__name__}")
        schedule = config.get("beta_schedule")
        if config.get("trained_betas") is not None:
            betas = torch.tensor(config["trained_betas"], dtype=torch.float64)
        elif schedule == "squaredcos_cap_v2":
            betas = cosine_betas(len(betas))
        elif schedule in ("linear", "scaled_linear"):
            power = 1 if schedule == "linear" else 2
            first, last = config["beta_start"] ** (1 / power), config["beta_end"] ** (1 / power)
            betas = torch.linspace(first, last, len(betas), dtype=torch.float64) ** power
        elif config.get("rescale_betas_zero_snr"):
            raise ValueError(
                f"rescale_betas_zero_snr needs a linear, scaled_linear or cosine schedule. Got {schedule!r}"
            )
        if config.get("rescale_betas_zero_snr"):
            betas = rescale_to_zero_snr(betas)
        return cls(betas)

    def limited(self, sigma_range: Sequence[float]) -> NoiseSchedule:
        """The same schedule for a network that takes only sigmas in this range, both ends included, on x_0's own scale.

        ``check_timesteps`` then refuses all other timesteps. TypeError or ValueError unless the range is (smallest,
        largest), and if no timestep is left. The largest may be infinite.
        """
        low, high = as_sigma_range(sigma_range)
        limited = copy.copy(self)
        limited.timesteps = range(bisect_left(self.host_sigmas, low), bisect_right(self.host_sigmas, high))
        if not limited.timesteps:
            raise ValueError(f"sigma_range must hold a sigma of {self}. Got ({low}, {high})")
        return limited

    def respaced(self, timesteps: Sequence[int]) -> NoiseSchedule:
        """The schedule of these ascending timesteps alone, their noise as it was (Nichol & Dhariwal 2021)."""
        steps = list(as_timesteps(timesteps) or ())
        self.check_timesteps(steps)
        if steps != sorted(set(steps)) or not steps:
            raise ValueError(f"timesteps must ascend. Got {steps}")
        signal, noise = squared_scales(torch.tensor(self.exact_betas, dtype=torch.float64), self.variance_preserving)
        previous_signal = torch.cat([torch.ones(1, dtype=torch.float64), signal[steps][:-1]])
        previous_noise = torch.cat([torch.zeros(1, dtype=torch.float64), noise[steps][:-1]])
        betas = noise[steps] - signal[steps] / previous_signal * previous_noise
        return NoiseSchedule(betas, variance_preserving=self.variance_preserving).to(self.betas.device)

    @property
    def exploding(self) -> bool:
        """Old name of ``not variance_preserving``."""
        warn_renamed("NoiseSchedule.exploding", "NoiseSchedule.variance_preserving, its opposite")
        return not self.variance_preserving

    @property
    def num_timesteps(self) -> int:
        return len(self.exact_betas)

    def to(self, device: torch.device | str) -> NoiseSchedule:
        """The same schedule on a device. The tables stay float32."""
        if self.betas.device == torch.device(device):
            return self
        moved, names = copy.copy(self), [name for name, table in vars(self).items() if isinstance(table, Tensor)]
        tables = torch.stack([getattr(self, name) for name in names])
        vars(moved).update(zip(names, send(tables, torch.device(device))))  # one copy for all
        return moved

    def scales(self, timesteps: Tensor, ndim: int = 4) -> tuple[Tensor, Tensor]:
        """Old form of ``functional.scales``."""
        warn_renamed("NoiseSchedule.scales(timesteps)", "score.functional.scales(timesteps, schedule)")
        shape = (-1, *[1] * (ndim - 1))
        return self.signal_scale[timesteps].reshape(shape), self.noise_scale[timesteps].reshape(shape)

    def timestep_for_sigma(self, sigma: float) -> int:
        """The first timestep >= 1 whose noise is at least ``sigma`` (on the [-1, 1] scale).

        This is the rule of denoised smoothing (``ethz-spylab/diffusion_denoised_smoothing``), where the smoothing
        noise on [0, 1] pixels is half of this sigma. ValueError if the schedule never reaches it.
        """
        reached = bisect_left(self.host_sigmas, as_number("sigma", sigma, at_least=0), lo=1)
        first, last = self.timesteps[0], self.timesteps[-1]
        if reached > last:
            raise ValueError(f"sigma must be at most {self.host_sigmas[last]:.4g}, the schedule's last. Got {sigma}")
        if sigma < self.host_sigmas[first] and first:
            raise ValueError(f"sigma must be at least {self.host_sigmas[first]:.4g} for this network. Got {sigma}")
        return reached

    def check_timesteps(self, timesteps: Sequence[int]) -> None:
        """ValueError unless the network takes every timestep: all of 0...T-1, or those of ``limited``."""
        if error := self._error_of(timesteps):
            raise error

    def checked(self, timesteps: Tensor, device: torch.device, late_checks: LateChecks) -> Tensor:
        """Integers (B,) as timesteps on a device.

        Those of the CPU are checked. Those of another device are moved into 0...T-1, and the error for others comes in
        a later call, because reading them would wait for the device.
        """
        if timesteps.device.type == "cpu":
            self.check_timesteps(timesteps.tolist())
            return send(timesteps, device)
        return held_within(timesteps, self.num_timesteps, late_checks, self._error_of)

    def _error_of(self, timesteps: Sequence[float]) -> ValueError | None:
        first, last = self.timesteps[0], self.timesteps[-1]
        if not len(timesteps) or (min(timesteps) >= first and max(timesteps) <= last):
            return None
        wrong = next(t for t in timesteps if not first <= t <= last)
        message = f"timesteps must be in {first}...{last} for this network. Got {wrong}"
        if len(self.timesteps) == self.num_timesteps or not 0 <= wrong < self.num_timesteps:
            return ValueError(message)
        low, high, sigma = (self.host_sigmas[int(t)] for t in (first, last, wrong))
        return ValueError(f"{message}: its sigmas are {low:.4g}...{high:.4g}, and t = {wrong} has {sigma:.4g}")

    def __repr__(self) -> str:
        return f"NoiseSchedule(T={self.num_timesteps}, sigmas {self.host_sigmas[0]:.3g}...{self.host_sigmas[-1]:.4g})"

    def __eq__(self, other: Any) -> bool:
        same = isinstance(other, NoiseSchedule) and self.variance_preserving == other.variance_preserving
        return same and self.exact_betas == other.exact_betas and self.timesteps == other.timesteps

    __hash__ = None  # type: ignore[assignment]


def as_sigma_range(sigma_range: Any) -> tuple[float, float]:
    """The smallest and the largest sigma. The largest may be infinite."""
    if hasattr(sigma_range, "tolist"):  # a tensor or an array
        sigma_range = sigma_range.tolist()
    if isinstance(sigma_range, (str, bytes)) or not hasattr(sigma_range, "__len__") or len(sigma_range) != 2:
        raise TypeError(f"sigma_range must be (smallest, largest). Got {shown(sigma_range)}")
    low, high = sigma_range
    low = as_number("sigma_range", low, at_least=0)
    high = high if high == math.inf else as_number("sigma_range", high, at_least=0)
    if low > high:
        raise ValueError(f"sigma_range must be (smallest, largest). Got ({low}, {high})")
    return low, high


def squared_scales(betas: Tensor, variance_preserving: bool) -> tuple[Tensor, Tensor]:
    """signal_scale and noise_scale squared, each (T,), from float64 betas."""
    if not variance_preserving:
        return torch.ones_like(betas), torch.cumsum(betas, dim=0)
    alphas_cumprod = torch.cumprod(1 - betas, dim=0)
    return alphas_cumprod, 1 - alphas_cumprod
