"""Noise schedules: betas -> alphas_cumprod -> sigmas, and from a sigma back to a timestep.

    x_t = sqrt(alphas_cumprod[t]) * x_0 + sqrt(1 - alphas_cumprod[t]) * noise,    x_0 in [-1, 1]
    sigmas[t] = sqrt((1 - alphas_cumprod[t]) / alphas_cumprod[t])                 the noise on x_0's own scale

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

#: The paper's network: timesteps without a size of their own are meant for images of 256 pixels and this schedule.
REFERENCE_IMAGE_SIZE = 256
AUGMENT_TIMESTEPS = range(1000)
ENSEMBLE_TIMESTEPS = range(0, 451, 50)


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
    """A variance-preserving noise schedule over timesteps 0...T-1.

    Args:
        betas: (T,) variances added at each step, in (0, 1).

    Attributes:
        exact_betas: the betas in float64, for writing them down.
        betas, alphas_cumprod, sigmas: float32 (T,).
        posterior_log_variance: float32 (T,), log of the true variance of x_{t-1} given x_t and x_0 (Ho et al. 2020,
            eq. 7); entry 0, which would be -inf, repeats entry 1 as OpenAI's code does.
        log_betas, fixed_large_log_variance: float32 (T,), the upper end; OpenAI's "fixed large" variance replaces
            entry 0 too.
        signal_scale, noise_scale: float32 (T,), sqrt(alphas_cumprod) and sqrt(1 - alphas_cumprod).

    Example:
        >>> schedule = NoiseSchedule.named("linear", 1000)
        >>> schedule.num_timesteps, schedule.timestep_for_sigma(0.5)
        (1000, 145)
    """

    def __init__(self, betas: Tensor) -> None:
        betas = torch.as_tensor(betas, dtype=torch.float64)
        if betas.ndim != 1 or not len(betas) or not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError(f"betas must be a vector of values in (0, 1). Got {betas}")
        alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        previous = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
        posterior_variance = betas * (1 - previous) / (1 - alphas_cumprod)
        posterior_variance[0] = posterior_variance[1] if len(betas) > 1 else betas[0]
        fixed_large_variance = torch.cat([posterior_variance[:1], betas[1:]])
        self.exact_betas: list[float] = betas.tolist()
        self.betas = betas.float()
        self.alphas_cumprod = alphas_cumprod.float()
        self.sigmas = ((1 - alphas_cumprod) / alphas_cumprod).sqrt().float()
        self.log_betas = betas.log().float()
        self.posterior_log_variance = posterior_variance.log().float()
        self.fixed_large_log_variance = fixed_large_variance.log().float()
        # Coefficients of x_0 and x_t in the posterior mean (Ho et al. 2020, eq. 7).
        self.posterior_x_0 = (betas * previous.sqrt() / (1 - alphas_cumprod)).float()
        self.posterior_x_t = ((1 - previous) * (1 - betas).sqrt() / (1 - alphas_cumprod)).float()
        # Kept apart: 1 - alphas_cumprod in float32 would lose half its digits at small t.
        self.signal_scale = alphas_cumprod.sqrt().float()
        self.noise_scale = (1 - alphas_cumprod).sqrt().float()

    @classmethod
    def named(cls, name: str, num_timesteps: int = 1000) -> NoiseSchedule:
        """The ``"linear"`` or ``"cosine"`` schedule of OpenAI's repositories. ValueError for another name."""
        if name not in BETAS:
            raise ValueError(f"noise schedule must be one of {sorted(BETAS)}. Got {name!r}")
        if num_timesteps < 1:
            raise ValueError(f"num_timesteps must be at least 1. Got {num_timesteps}")
        return cls(BETAS[name](num_timesteps))

    @classmethod
    def from_scheduler(cls, scheduler: SchedulerMixin) -> NoiseSchedule:
        """The schedule of a diffusers scheduler, from its configuration where that says more than float32 betas.

        1 - beta has a relative error of 6e-5 in float32 where beta is .999, as at the end of the cosine schedule.
        """
        config = scheduler.config
        betas = getattr(scheduler, "betas", None)
        if betas is None:
            raise ValueError(f"a scheduler with betas (DDPM, DDIM, ...) is needed. Got {type(scheduler).__name__}")
        if config.get("trained_betas") is not None:
            betas = torch.tensor(config["trained_betas"], dtype=torch.float64)
        elif config.get("beta_schedule") == "squaredcos_cap_v2":
            betas = cosine_betas(len(betas))
        elif config.get("beta_schedule") == "linear":
            betas = torch.linspace(config["beta_start"], config["beta_end"], len(betas), dtype=torch.float64)
        return cls(betas)

    def respaced(self, timesteps: Sequence[int]) -> NoiseSchedule:
        """The schedule of these ascending timesteps alone, alphas_cumprod as it was (Nichol & Dhariwal 2021)."""
        steps = list(timesteps)
        self.check_timesteps(steps)
        if steps != sorted(set(steps)) or not steps:
            raise ValueError(f"timesteps must ascend. Got {steps}")
        kept = torch.cumprod(1 - torch.tensor(self.exact_betas, dtype=torch.float64), dim=0)[steps]
        previous = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
        return NoiseSchedule(1 - kept / previous).to(self.betas.device)

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
        """sqrt(alphas_cumprod) and sqrt(1 - alphas_cumprod) at ``timesteps``, each (B, 1, 1, 1)."""
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
        return isinstance(other, NoiseSchedule) and self.exact_betas == other.exact_betas

    __hash__ = None  # type: ignore[assignment]


def match_timesteps(
    timesteps: Iterable[int],
    schedule: NoiseSchedule,
    image_size: int,
    reference_schedule: NoiseSchedule | None = None,
    reference_size: int = REFERENCE_IMAGE_SIZE,
) -> tuple[int, ...]:
    """The timesteps that do to ``image_size`` pixels what ``timesteps`` do to ``reference_size`` pixels.

    Averaged over an area, noise of sigma at side d does what sigma * reference / d does at the reference's side
    (Hoogeboom et al. 2023, "simple diffusion", sec. 3.1). So each sigma is multiplied by image_size / reference_size
    and the nearest timestep of ``schedule`` is taken. Repeats are kept: they weigh in a uniform draw.

    Args:
        timesteps: in 0...T-1 of the reference schedule.
        schedule: the schedule of the network that will be used.
        image_size: side of its images in pixels.
        reference_schedule: default linear, 1000 steps: the paper's.
        reference_size: default 256 pixels: the paper's.

    Example:
        >>> match_timesteps(range(0, 451, 50), NoiseSchedule.named("linear"), 32)
        (0, 3, 9, 16, 23, 33, 44, 57, 74, 96)
    """
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1 pixel. Got {image_size}")
    reference = reference_schedule or NoiseSchedule.named("linear", 1000)
    steps = list(timesteps)
    reference.check_timesteps(steps)
    if not steps:
        return ()
    target = reference.sigmas.cpu()[steps].double() * (image_size / reference_size)
    sigmas = schedule.sigmas.cpu().double()
    above = torch.searchsorted(sigmas, target).clamp(1, len(sigmas) - 1) if len(sigmas) > 1 else target.long() * 0
    below = (above - 1).clamp(min=0)
    nearest = torch.where(target - sigmas[below] < sigmas[above] - target, below, above)
    return tuple(nearest.tolist())
