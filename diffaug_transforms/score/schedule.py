"""Noise schedules: betas -> signal_scale, noise_scale -> sigmas, and from a sigma back to a timestep.

    x_t = signal_scale[t] * x_0 + noise_scale[t] * noise,    x_0 in [-1, 1]
    sigmas[t] = noise_scale[t] / signal_scale[t]             the noise on x_0's own scale

Variance-preserving schedules (Ho et al. 2020) shrink the image at every step: signal_scale is sqrt(alphas_cumprod),
noise_scale sqrt(1 - alphas_cumprod). Variance-exploding ones (Song et al. 2021) leave it as it is: signal_scale is 1.
Everything is computed in float64 and kept in float32.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


def linear_betas(num_timesteps: int = 1000) -> Tensor:
    """``linspace(1e-4, 0.02, T)`` scaled by 1000 / T (Ho et al. 2020; ``improved-diffusion``). float64 (T,)."""
    scale = 1000 / num_timesteps
    return torch.linspace(scale * 1e-4, scale * 0.02, num_timesteps, dtype=torch.float64)


def cosine_betas(num_timesteps: int = 1000) -> Tensor:
    """Betas of alphas_cumprod(t) = cos^2((t + .008) / 1.008 pi / 2), at most .999 (Nichol & Dhariwal 2021, eq. 17)."""
    t = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
    alphas_cumprod = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).clamp(max=0.999)


BETAS = {"linear": linear_betas, "cosine": cosine_betas}


class NoiseSchedule:
    """A noise schedule over timesteps 0...T-1, variance-preserving or variance-exploding.

    Args:
        betas: (T,) variances added at each step: in (0, 1), or just above 0 where ``exploding``.
        exploding: the steps leave the image as it is, x_t = x_{t-1} + sqrt(betas[t]) noise, instead of shrinking it,
            x_t = sqrt(1 - betas[t]) x_{t-1} + sqrt(betas[t]) noise.

    Attributes:
        exact_betas: the betas in float64, for writing them down.
        betas, alphas_cumprod, sigmas: float32 (T,); alphas_cumprod is 1 where ``exploding``.
        signal_scale, noise_scale: float32 (T,), the factors of x_0 and of the noise in x_t.
        posterior_log_variance: float32 (T,), log of the true variance of x_{t-1} given x_t and x_0 (Ho et al. 2020,
            eq. 7; Song et al. 2021, eq. 47); entry 0, which would be -inf, repeats entry 1 as OpenAI's code does.
        log_betas, fixed_large_log_variance: float32 (T,), the upper end; OpenAI's "fixed large" variance replaces
            entry 0 too.

    Example:
        >>> schedule = NoiseSchedule.named("linear", 1000)
        >>> schedule.num_timesteps, schedule.timestep_for_sigma(0.5)
        (1000, 145)
    """

    def __init__(self, betas: Tensor, *, exploding: bool = False) -> None:
        betas = torch.as_tensor(betas, dtype=torch.float64)
        largest = math.inf if exploding else 1
        if betas.ndim != 1 or not len(betas) or not bool(((betas > 0) & (betas < largest)).all()):
            raise ValueError(f"betas must be a vector of values in (0, {largest}). Got {betas}")
        self.exploding = exploding
        self.exact_betas: list[float] = betas.tolist()
        signal, noise = squared_scales(betas, exploding)
        previous_signal = torch.cat([torch.ones(1, dtype=torch.float64), signal[:-1]])
        previous_noise = torch.cat([torch.zeros(1, dtype=torch.float64), noise[:-1]])
        posterior_variance = betas * previous_noise / noise
        posterior_variance[0] = posterior_variance[1] if len(betas) > 1 else betas[0]
        fixed_large_variance = torch.cat([posterior_variance[:1], betas[1:]])
        self.betas = betas.float()
        self.alphas_cumprod = signal.float()
        self.sigmas = (noise / signal).sqrt().float()
        self.log_betas = betas.log().float()
        self.posterior_log_variance = posterior_variance.log().float()
        self.fixed_large_log_variance = fixed_large_variance.log().float()
        # Coefficients of x_0 and x_t in the posterior mean, by conditioning a Gaussian (Ho et al. 2020, eq. 7).
        self.posterior_x_0 = (betas * previous_signal.sqrt() / noise).float()
        self.posterior_x_t = (previous_noise * (signal / previous_signal).sqrt() / noise).float()
        # Kept apart: 1 - alphas_cumprod in float32 would lose half its digits at small t.
        self.signal_scale = signal.sqrt().float()
        self.noise_scale = noise.sqrt().float()

    @classmethod
    def named(cls, name: str, num_timesteps: int = 1000) -> NoiseSchedule:
        """The ``"linear"`` or ``"cosine"`` schedule of OpenAI's repositories. ValueError for another name."""
        if name not in BETAS:
            raise ValueError(f"noise schedule must be one of {sorted(BETAS)}. Got {name!r}")
        if num_timesteps < 1:
            raise ValueError(f"num_timesteps must be at least 1. Got {num_timesteps}")
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
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(f"sigma_min must be above 0 and below sigma_max. Got {sigma_min} and {sigma_max}")
        if num_timesteps < 2:
            raise ValueError(f"num_timesteps must be at least 2. Got {num_timesteps}")
        share = torch.linspace(0, 1, num_timesteps, dtype=torch.float64)
        variances = (sigma_min * (sigma_max / sigma_min) ** share) ** 2
        return cls(torch.diff(variances, prepend=torch.zeros(1, dtype=torch.float64)), exploding=True)

    @classmethod
    def from_scheduler(cls, scheduler: SchedulerMixin, image_range: tuple[float, float] = (0, 1)) -> NoiseSchedule:
        """The schedule of a diffusers scheduler, from its configuration where that says more than float32 betas.

        1 - beta has a relative error of 6e-5 in float32 where beta is .999, as at the end of the cosine schedule.

        Args:
            scheduler: one with betas (DDPM, DDIM, ...), or ScoreSdeVeScheduler.
            image_range: of the images that ScoreSdeVeScheduler's sigmas are added to.
        """
        config = scheduler.config
        if hasattr(scheduler, "discrete_sigmas"):
            scale = 2 / (image_range[1] - image_range[0])
            sigma_min, sigma_max = (scale * config[name] for name in ("sigma_min", "sigma_max"))
            return cls.variance_exploding(sigma_min, sigma_max, config["num_train_timesteps"])
        betas = getattr(scheduler, "betas", None)
        if betas is None:
            name = type(scheduler).__name__
            raise ValueError(f"a scheduler with betas (DDPM, DDIM, ...) or ScoreSdeVeScheduler is needed. Got {name}")
        if config.get("trained_betas") is not None:
            betas = torch.tensor(config["trained_betas"], dtype=torch.float64)
        elif config.get("beta_schedule") == "squaredcos_cap_v2":
            betas = cosine_betas(len(betas))
        elif config.get("beta_schedule") == "linear":
            betas = torch.linspace(config["beta_start"], config["beta_end"], len(betas), dtype=torch.float64)
        return cls(betas)

    def respaced(self, timesteps: Sequence[int]) -> NoiseSchedule:
        """The schedule of these ascending timesteps alone, their noise as it was (Nichol & Dhariwal 2021)."""
        steps = list(timesteps)
        self.check_timesteps(steps)
        if steps != sorted(set(steps)) or not steps:
            raise ValueError(f"timesteps must ascend. Got {steps}")
        signal, noise = squared_scales(torch.tensor(self.exact_betas, dtype=torch.float64), self.exploding)
        previous_signal = torch.cat([torch.ones(1, dtype=torch.float64), signal[steps][:-1]])
        previous_noise = torch.cat([torch.zeros(1, dtype=torch.float64), noise[steps][:-1]])
        betas = noise[steps] - signal[steps] / previous_signal * previous_noise
        return NoiseSchedule(betas, exploding=self.exploding).to(self.betas.device)

    @property
    def num_timesteps(self) -> int:
        return len(self.betas)

    def to(self, device: torch.device | str) -> NoiseSchedule:
        """The same schedule on a device; the tables' dtype never changes."""
        moved = copy.copy(self)
        for name, table in vars(self).items():
            if isinstance(table, Tensor):
                setattr(moved, name, table.to(device))
        return moved

    def gather(self, table: Tensor, timesteps: Tensor, ndim: int = 4) -> Tensor:
        """Entries of a (T,) table at ``timesteps`` (B,), shaped (B, 1, 1, 1) to multiply images."""
        return table[timesteps].reshape(-1, *[1] * (ndim - 1))

    def scales(self, timesteps: Tensor, ndim: int = 4) -> tuple[Tensor, Tensor]:
        """The factors of x_0 and of the noise in x_t at ``timesteps``, each (B, 1, 1, 1)."""
        return self.gather(self.signal_scale, timesteps, ndim), self.gather(self.noise_scale, timesteps, ndim)

    def timestep_for_sigma(self, sigma: float) -> int:
        """The first timestep >= 1 whose noise is at least ``sigma`` (on the [-1, 1] scale).

        This is the rule of denoised smoothing (``ethz-spylab/diffusion_denoised_smoothing``), where the smoothing
        noise on [0, 1] pixels is half of this sigma. ValueError where the schedule never reaches it.
        """
        reached = (self.sigmas[1:] >= sigma).nonzero()
        if not len(reached):
            raise ValueError(f"sigma must be at most {float(self.sigmas[-1]):.4g}, the schedule's last. Got {sigma}")
        return int(reached[0]) + 1

    def check_timesteps(self, timesteps: Iterable[int]) -> None:
        """ValueError unless every timestep lies in 0...T-1."""
        for t in timesteps:
            if not 0 <= t < self.num_timesteps:
                raise ValueError(f"timesteps must be in 0...{self.num_timesteps - 1} for this network. Got {t}")

    def __repr__(self) -> str:
        return f"NoiseSchedule(T={self.num_timesteps}, sigmas {self.sigmas[0]:.3g}...{self.sigmas[-1]:.4g})"

    def __eq__(self, other: Any) -> bool:
        same = isinstance(other, NoiseSchedule) and self.exploding == other.exploding
        return same and self.exact_betas == other.exact_betas

    __hash__ = None  # type: ignore[assignment]


def squared_scales(betas: Tensor, exploding: bool) -> tuple[Tensor, Tensor]:
    """signal_scale and noise_scale squared, each (T,), of float64 betas."""
    if exploding:
        return torch.ones_like(betas), torch.cumsum(betas, dim=0)
    alphas_cumprod = torch.cumprod(1 - betas, dim=0)
    return alphas_cumprod, 1 - alphas_cumprod
