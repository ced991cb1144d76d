"""Networks that denoise x = x_0 + sigma noise, as ``ScoreNetwork`` calls a network: x_t and timesteps in, x_0 out.

    x_t --/ signal_scale[t]--> x = x_0 + sigmas[t] noise --denoiser--> x_0

``SigmaDenoiser`` holds a user's own ``denoise(x, sigma)``. ``Preconditioned`` holds a diffusers U-Net, and the four
coefficients around it that its scheduler stands for:

    denoise(x, sigma) = c_skip x + c_out unet(c_in x, c_noise)       (Karras et al. 2022, eq. 7)

The schedule is the paper's, linear with 1000 timesteps, cut to the sigmas that the denoiser takes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import as_integer, as_optional_integer, shown
from ..without_waiting import LateChecks
from .schedule import NoiseSchedule

#: The types that autocast computes in.
HALF = (torch.float16, torch.bfloat16)


class SigmaDenoiser(nn.Module):
    """A user's ``denoise(x, sigma)`` or ``denoise(x, sigma, labels)``.

    Its weights keep their dtype if the network is cast to float16 or bfloat16. ``denoise`` then runs under autocast,
    because its own arithmetic with sigma is in float32, and would not fit weights of another dtype.

    Args:
        denoise: a module, or any function.
        schedule: says which sigma a timestep has.
        config: the entries that ``ScoreNetwork`` reads.
    """

    #: ``ScoreNetwork`` passes x_t on in float32.
    takes_float32 = True
    sigmas: Tensor
    signal_scale: Tensor

    def __init__(self, denoise: Callable[..., Tensor], schedule: NoiseSchedule, config: SimpleNamespace) -> None:
        super().__init__()
        self.denoise = denoise
        self.config = config
        self.autocast_dtype: torch.dtype | None = None
        self._late_checks = LateChecks()
        self.register_buffer("sigmas", schedule.sigmas, persistent=False)
        self.register_buffer("signal_scale", schedule.signal_scale, persistent=False)

    def forward(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        if self._late_checks.waiting:
            self._late_checks.read()
        x = (x_t / self.signal_scale[timesteps].reshape(-1, 1, 1, 1)).to(dtype_of(self.denoise))
        conditions = (self.sigmas[timesteps],) if labels is None else (self.sigmas[timesteps], labels)
        half = self.autocast_dtype
        with nullcontext() if half is None else torch.autocast(x.device.type, half):
            x_0 = self.denoise(x, *conditions)
        self._check(x_0, x)
        return x_0

    def _check(self, x_0: Any, x: Tensor) -> None:
        if not isinstance(x_0, Tensor) or not x_0.is_floating_point():
            got = x_0.dtype if isinstance(x_0, Tensor) else shown(x_0)
            raise TypeError(f"denoise must return a floating point tensor. Got {got}")
        if x_0.shape != x.shape:
            raise ValueError(f"denoise must return the shape it got, {tuple(x.shape)}. Got shape {tuple(x_0.shape)}")
        if not torch.compiler.is_compiling() and x_0.device.type != "meta" and not is_capturing(x_0):
            self._late_checks.check(torch.stack(torch.aminmax(x_0.detach())), error_of_denoised)

    def enable_gradient_checkpointing(self) -> None:
        enable = getattr(self.denoise, "enable_gradient_checkpointing", None)
        if enable is None:
            raise ValueError("checkpointing needs a denoiser with a method enable_gradient_checkpointing. Got none")
        enable()

    def _apply(self, fn: Any, recurse: bool = True) -> SigmaDenoiser:
        device = self.sigmas.device
        single, double = (fn(torch.empty(0, dtype=dtype, device=device)) for dtype in (torch.float32, torch.float64))
        if single.dtype == double.dtype:  # it is a cast
            self.autocast_dtype = single.dtype if single.dtype in HALF else None
        tables = (self.sigmas, self.signal_scale)

        def move(tensor: Tensor) -> Tensor:
            moved: Tensor = fn(tensor)
            cast = moved.dtype in HALF and tensor.dtype not in HALF
            return tensor.to(moved.device) if cast else moved

        super()._apply(move, recurse)
        self.sigmas, self.signal_scale = (table.to(single.device) for table in tables)
        return self


class Preconditioned(nn.Module):
    """A diffusers U-Net that was trained with one of the schedulers in ``PRECONDITIONINGS``, as a denoiser.

    The coefficients, and the embedding that the U-Net makes of c_noise, stay float32 if the network is cast.

    Args:
        unet: diffusers' ``UNet2DModel``. It is used as it is.
        schedule: says which sigma a timestep has.
        scheduler: diffusers'. It is kept for ``save_pretrained``.
    """

    #: ``ScoreNetwork`` passes x_t on in float32.
    takes_float32 = True
    coefficients: Tensor

    def __init__(self, unet: nn.Module, schedule: NoiseSchedule, scheduler: Any) -> None:
        super().__init__()
        self.unet = unet
        self.config = unet.config
        self.scheduler = scheduler
        alphas_cumprod = torch.cumprod(1 - torch.tensor(schedule.exact_betas, dtype=torch.float64), dim=0)
        sigma = ((1 - alphas_cumprod) / alphas_cumprod).sqrt()
        c_skip, c_out, c_in, c_noise = PRECONDITIONINGS[type(scheduler).__name__](sigma, scheduler.config)
        # Of x_t, which is x sqrt(alphas_cumprod).
        table = torch.stack([c_skip / alphas_cumprod.sqrt(), c_out, c_in / alphas_cumprod.sqrt(), c_noise])
        self.register_buffer("coefficients", table.float(), persistent=False)

    def forward(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        *scalings, c_noise = self.coefficients[:, timesteps]
        c_skip, c_out, c_in = (scaling.reshape(-1, 1, 1, 1) for scaling in scalings)
        output = self.unet((c_in * x_t).to(dtype_of(self.unet)), c_noise, labels)
        output = output if isinstance(output, Tensor) else output.sample
        return c_skip * x_t + c_out * output.float()

    def enable_gradient_checkpointing(self) -> None:
        self.unet.enable_gradient_checkpointing()  # type: ignore[operator]

    def _apply(self, fn: Any, recurse: bool = True) -> Preconditioned:
        table = self.coefficients
        super()._apply(fn, recurse)
        self.coefficients = table.to(self.coefficients.device)
        return self


Coefficients = tuple[Tensor, Tensor, Tensor, Tensor]


def edm(sigma: Tensor, config: Any) -> Coefficients:
    """EDM (Karras et al. 2022, table 1). diffusers' prediction type "v_prediction" turns the sign of c_out."""
    data, sign = config["sigma_data"], -1 if config["prediction_type"] == "v_prediction" else 1
    norm = (sigma**2 + data**2).sqrt()
    return data**2 / norm**2, sign * sigma * data / norm, 1 / norm, sigma.log() / 4


def consistency(sigma: Tensor, config: Any) -> Coefficients:
    """Consistency models (Song et al. 2023, appendix C): EDM, but at sigma_min the image comes back as it is.

    The embedding gets 1000 times EDM's c_noise, as in openai/consistency_models.
    """
    data, above = config["sigma_data"], sigma - config["sigma_min"]
    norm = (sigma**2 + data**2).sqrt()
    return data**2 / (above**2 + data**2), above * data / norm, 1 / norm, 250 * (sigma + 1e-44).log()


def flow(sigma: Tensor, config: Any) -> Coefficients:
    """Flow matching (Lipman et al. 2023): x_s = (1 - s) x_0 + s noise, and the U-Net predicts noise - x_0.

    x_s / (1 - s) has sigma = s / (1 - s). The U-Net is told s T. The scheduler's shift only says which s it visits.
    """
    s = sigma / (1 + sigma)
    return 1 - s, -s, 1 - s, s * config["num_train_timesteps"]


#: By the name of diffusers' scheduler.
PRECONDITIONINGS: dict[str, Callable[[Tensor, Any], Coefficients]] = {
    "EDMEulerScheduler": edm,
    "CMStochasticIterativeScheduler": consistency,
    "FlowMatchEulerDiscreteScheduler": flow,
}


def precondition(unet: nn.Module, scheduler: Any) -> tuple[Preconditioned, NoiseSchedule]:
    """A U-Net as a denoiser, and its schedule. ValueError for a U-Net that cannot be told the scheduler's c_noise."""
    config: Any = unet.config
    name = type(scheduler).__name__
    if getattr(config, "out_channels", None) not in (None, config.in_channels):
        raise ValueError(
            f"out_channels must be in_channels, {config.in_channels}, with {name}. Got {config.out_channels}"
        )
    embedding = getattr(config, "time_embedding_type", "positional")
    if embedding != "positional":  # "fourier" would take the logarithm of c_noise, and "learned" needs integers
        raise ValueError(f"time_embedding_type must be 'positional' with {name}. Got {embedding!r}")
    limits = (scheduler.config.get("sigma_min", 0.0), scheduler.config.get("sigma_max", math.inf))
    schedule = NoiseSchedule.named("linear").limited(limits)
    return Preconditioned(unet, schedule, scheduler), schedule


def wrap_denoiser(
    denoise: Any,
    image_size: int | None,
    sigma_range: Sequence[float],
    in_channels: int,
    num_classes: int | None,
    stride: int,
) -> tuple[SigmaDenoiser, NoiseSchedule]:
    """``ScoreNetwork.from_denoiser``'s arguments, checked: the denoiser as a network, and its schedule."""
    if not callable(denoise) or isinstance(denoise, type):
        raise TypeError(f"denoise must be a function or a module, denoise(x, sigma). Got {shown(denoise)}")
    config = SimpleNamespace(
        sample_size=as_optional_integer("image_size", image_size, 1),
        in_channels=as_integer("in_channels", in_channels, 1),
        num_class_embeds=as_optional_integer("num_classes", num_classes, 1),
        stride=as_integer("stride", stride, 1),
    )
    check_signature(denoise, num_classes)
    schedule = NoiseSchedule.named("linear").limited(sigma_range)
    weights = [*denoise.parameters(), *denoise.buffers()] if isinstance(denoise, nn.Module) else []
    schedule = schedule.to(weights[0].device if weights else "cpu")
    return SigmaDenoiser(denoise, schedule, config), schedule


def check_signature(denoise: Any, num_classes: int | None) -> None:
    """TypeError if ``denoise`` does not take x and sigma, and labels if there are classes."""
    function = denoise.forward if isinstance(denoise, nn.Module) else denoise
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # it is written in C
        return
    names = ("x", "sigma") if num_classes is None else ("x", "sigma", "labels")
    try:
        signature.bind(*names)
    except TypeError:
        count = "without num_classes" if num_classes is None else f"for num_classes={num_classes}"
        raise TypeError(f"denoise must take ({', '.join(names)}) {count}. Got {signature}") from None


def dtype_of(module: Any) -> torch.dtype:
    """The dtype of a module's weights; float32 if it has none, or is a function."""
    for parameter in module.parameters() if isinstance(module, nn.Module) else ():
        if parameter.is_floating_point():
            return parameter.dtype
    return torch.float32


def is_capturing(tensor: Tensor) -> bool:
    """Whether a CUDA graph is being recorded, while which nothing may be copied to the host."""
    return tensor.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def error_of_denoised(extremes: Sequence[float]) -> ValueError | None:
    if all(map(math.isfinite, extremes)):
        return None
    return ValueError(f"denoise must return finite values. Got values in [{extremes[0]}, {extremes[1]}]")
