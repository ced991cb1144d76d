"""Foreign networks, each wrapped once so that everything else sees one signature: unet(x_t, timesteps, labels).

``ScoreNetwork`` gives its network x_t on the scale of [-1, 1] images and timesteps. A network that wants something else
gets an adapter, here or in ``denoisers.py``, and nothing outside of these two files knows of it. A new type of network
goes here: an adapter, and its line in ``from_diffusers`` and ``to_diffusers``.
"""

from __future__ import annotations

from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from .denoisers import PRECONDITIONINGS, Preconditioned, SigmaDenoiser, precondition
from .functional import to_unit
from .schedule import NoiseSchedule, cosine_betas

#: The embedding's frequencies under a second name: NCSN++ files on the Hub hold them twice, diffusers' module once.
DUPLICATE_KEYS = {"time_proj.W"}
#: The resampling kernel of NCSN++, the only one that diffusers has (``fir_kernel`` in Song et al.'s configurations).
FIR_KERNEL = (1, 3, 3, 1)


class NCSNpp(nn.Module):
    """A variance-exploding score network of Song et al. 2021 (NCSN++), called as a diffusers U-Net is.

    It was trained on [0, 1] images, is conditioned on sigma, and answers with the score on its own scale:

        x_t --(x_t + 1) / 2--> unet(own x_t, sigma / 2) = 2 score --half--> score

    ``ScoreNetwork`` takes it with ``prediction_type="score"``.

    Args:
        unet: diffusers' ``UNet2DModel`` with a Fourier time embedding. It is used as it is.
        schedule: variance-exploding, its sigmas on the [-1, 1] scale.
    """

    sigmas: Tensor

    def __init__(self, unet: nn.Module, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.unet = unet
        self.config = unet.config
        self.register_buffer("sigmas", schedule.sigmas, persistent=False)

    def forward(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        output = self.unet(to_unit(x_t), self.sigmas[timesteps] / 2, labels)
        return (output if isinstance(output, Tensor) else output.sample) / 2

    def enable_gradient_checkpointing(self) -> None:
        self.unet.enable_gradient_checkpointing()  # type: ignore[operator]

    def _apply(self, fn: Any, recurse: bool = True) -> NCSNpp:
        """Keep sigmas and the embedding's frequencies in float32, whatever dtype the rest is cast to.

        A frequency of 50 is off by up to 0.125 in bfloat16; times 2 pi log sigma that is any phase at all.
        """
        sigmas, projection = self.sigmas, getattr(self.unet, "time_proj", None)
        frequencies: Any = getattr(projection, "weight", None)
        frequencies = None if frequencies is None else frequencies.detach()
        super()._apply(fn, recurse)
        device = self.sigmas.device
        self.sigmas = sigmas.to(device)
        if projection is not None and frequencies is not None:
            projection.weight = nn.Parameter(frequencies.to(device), requires_grad=False)
        return self


def from_diffusers(
    unet: nn.Module, scheduler: Any, plain: bool = False
) -> tuple[nn.Module, NoiseSchedule, dict[str, Any]]:
    """A U-Net as ``ScoreNetwork`` calls it, its schedule, and ``ScoreNetwork``'s arguments, from diffusers' pair.

    Args:
        unet: diffusers' ``UNet2DModel``.
        scheduler: the one that it was trained with.
        plain: never wrap: the U-Net takes x_t and timesteps as they are, also with a variance-exploding schedule.
    """
    if type(scheduler).__name__ in PRECONDITIONINGS:
        return *precondition(unet, scheduler), {"prediction_type": "sample"}
    config: Any = unet.config
    schedule = NoiseSchedule.from_scheduler(scheduler)
    doubled = config.out_channels == 2 * config.in_channels
    # Solvers of other kinds have no variance, or say null.
    fixed = (scheduler.config.get("variance_type") or "fixed_small").removesuffix("_log")
    arguments = {
        "prediction_type": scheduler.config.get("prediction_type", "epsilon"),
        "variance_type": "learned_range" if doubled else fixed,
    }
    if schedule.variance_preserving or plain:
        return unet, schedule, arguments
    return NCSNpp(unet, schedule), schedule, arguments | {"prediction_type": "score"}


def to_diffusers(
    unet: nn.Module, schedule: NoiseSchedule, prediction_type: str, variance_type: str
) -> tuple[nn.Module, Any, dict[str, Any]]:
    """The inverse of ``from_diffusers``: diffusers' U-Net and scheduler, and what the scheduler cannot say.

    Raises:
        ValueError: a variance-exploding schedule that is not geometric, which diffusers cannot say; a user's denoiser.
    """
    if isinstance(unet, SigmaDenoiser):
        raise ValueError("a network from a denoiser cannot be saved in diffusers' layout. Save the denoiser itself")
    if isinstance(unet, Preconditioned):
        return unet.unet, unet.scheduler, {}
    if schedule.variance_preserving:
        return unet, preserving_scheduler(schedule, prediction_type, variance_type), {}
    scheduler = exploding_scheduler(schedule)
    if isinstance(unet, NCSNpp):
        return unet.unet, scheduler, {}
    return unet, scheduler, {"plain": True, "prediction_type": prediction_type, "variance_type": variance_type}


def preserving_scheduler(schedule: NoiseSchedule, prediction_type: str, variance_type: str) -> Any:
    """diffusers' ``DDPMScheduler``: the schedule by its name if it has one, else by its betas."""
    from diffusers import DDPMScheduler

    betas = torch.tensor(schedule.exact_betas, dtype=torch.float64)
    first, last = schedule.exact_betas[0], schedule.exact_betas[-1]
    named: dict[str, Any] = {"trained_betas": schedule.exact_betas}
    if torch.equal(betas, torch.linspace(first, last, len(betas), dtype=torch.float64)):
        named = {"beta_schedule": "linear", "beta_start": first, "beta_end": last}
    elif torch.equal(betas, cosine_betas(len(betas))):
        named = {"beta_schedule": "squaredcos_cap_v2"}
    return DDPMScheduler(len(betas), prediction_type=prediction_type, variance_type=variance_type, **named)


def exploding_scheduler(schedule: NoiseSchedule) -> Any:
    """diffusers' ``ScoreSdeVeScheduler``, whose sigmas are for [0, 1] images. ValueError unless they are geometric."""
    from diffusers import ScoreSdeVeScheduler

    variances = torch.cumsum(torch.tensor(schedule.exact_betas, dtype=torch.float64), dim=0)
    # The digits after the twelfth are rounding.
    sigma_min, sigma_max = (float(f"{variance.sqrt():.12g}") for variance in variances[[0, -1]])
    geometric = NoiseSchedule.variance_exploding(sigma_min, sigma_max, schedule.num_timesteps)
    if not torch.allclose(geometric.sigmas, schedule.sigmas.cpu(), rtol=1e-5, atol=0):
        raise ValueError(f"a variance-exploding schedule must be geometric to be saved. Got {schedule}")
    return ScoreSdeVeScheduler(schedule.num_timesteps, sigma_min=sigma_min / 2, sigma_max=sigma_max / 2)


def make_picklable(unet: nn.Module) -> None:
    """Replace the lambdas around NCSN++'s FIR resampling, which diffusers makes, by the functions themselves."""
    from diffusers.models.downsampling import downsample_2d
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.upsampling import upsample_2d

    for block in unet.modules():
        if isinstance(block, ResnetBlock2D):
            for name, function in (("upsample", upsample_2d), ("downsample", downsample_2d)):
                if isinstance(getattr(block, name), FunctionType):
                    setattr(block, name, partial(function, kernel=FIR_KERNEL))
