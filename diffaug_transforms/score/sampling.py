"""One loop back from noise to images, ancestral or DDIM, over any of the network's timesteps, with a hook for a guide.

    x_T ──predict──▶ pred_x0, mean, variance ──guide──▶ the same, shifted ──noise──▶ x_{t-1} ... x_0

Robustness's DDA and guided generation both use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from . import functional as F
from .functional import ReverseStep
from .network import ScoreNetwork
from .schedule import NoiseSchedule

Predict = Callable[[Tensor], ReverseStep]
#: ``guide(x_t, timesteps, predict)`` stands in for ``predict(x_t)`` and returns what the step shall use. It calls
#: ``predict`` itself, so that it decides whether gradients go through the network.
Guide = Callable[[Tensor, Tensor, Predict], ReverseStep]

METHODS = ("ancestral", "ddim")


def spaced_timesteps(num_timesteps: int, num_steps: int) -> tuple[int, ...]:
    """``num_steps`` of 0...T-1, evenly spaced, first and last included (``guided-diffusion`` respace.py).

    Example:
        >>> spaced_timesteps(1000, 5)
        (0, 250, 500, 749, 999)
    """
    _check_num_steps(num_timesteps, num_steps)
    stride = (num_timesteps - 1) / max(num_steps - 1, 1)
    return tuple(round(i * stride) for i in range(num_steps))


def strided_timesteps(num_timesteps: int, num_steps: int) -> tuple[int, ...]:
    """``num_steps`` of 0...T-1 at one integer stride from 0 on: DDIM's choice ("ddimN" in ``guided-diffusion``).

    ValueError where no stride gives that number.

    Example:
        >>> strided_timesteps(1000, 5)
        (0, 200, 400, 600, 800)
    """
    _check_num_steps(num_timesteps, num_steps)
    steps = range(0, num_timesteps, -(-num_timesteps // num_steps))
    if len(steps) != num_steps:
        raise ValueError(f"num_steps must be a number of steps of equal stride over {num_timesteps}. Got {num_steps}")
    return tuple(steps)


def sample(
    network: ScoreNetwork,
    x_t: Tensor,
    timesteps: Sequence[int] | None = None,
    *,
    method: str = "ancestral",
    eta: float = 0.0,
    labels: Tensor | None = None,
    guide: Guide | None = None,
    noise: Iterable[Tensor] | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Tensor:
    """Walk back from ``x_t`` through ``timesteps`` to images.

    Args:
        network: on the device of ``x_t``.
        x_t: (B, C, H, W), as noisy as the last of ``timesteps``. Where that is T-1, standard normal noise times
            ``network.schedule.noise_scale[-1]``: 1, or sigma_max where the schedule is variance-exploding.
        timesteps: of the network, ascending; None: all of 0...T-1. See ``spaced_timesteps``.
        method: ``"ancestral"`` (Ho et al. 2020, alg. 2) or ``"ddim"`` (Song, Meng & Ermon 2021, eq. 12).
        eta: DDIM's share of noise, in [0, 1]; 0: deterministic.
        labels: int64 (B,) for conditional networks, or None.
        guide: shifts each step's prediction, see ``Guide``. Ancestral steps read its mean and log-variance, DDIM its
            pred_x0.
        noise: one tensor like ``x_t`` for each step but the last, in the order of the steps; None draws them.
        generator: source of those draws; None: torch's global one.
        progress: show a progress bar over the steps.

    Returns:
        float32 (B, C, H, W) in about [-1, 1]: the last step's mean, without noise.

    Raises:
        ValueError: unknown method, eta out of range, timesteps that do not ascend, or too few noise tensors.

    Example:
        >>> network = load_score_network("cifar10")
        >>> steps = spaced_timesteps(network.num_timesteps, 10)
        >>> sample(network, torch.randn(2, 3, 32, 32), steps, method="ddim").shape
        torch.Size([2, 3, 32, 32])
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}. Got {method!r}")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1]. Got {eta}")
    steps = range(network.num_timesteps) if timesteps is None else timesteps
    schedule = network.schedule.respaced(steps)
    draws = draw_like(x_t, generator) if noise is None else iter(noise)
    is_random = method == "ancestral" or eta > 0
    for place in _progress_bar(reversed(range(len(steps))), len(steps), progress):
        t = torch.full((len(x_t),), steps[place], device=x_t.device)
        places = torch.full_like(t, place)

        def predict(x: Tensor, t: Tensor = t, places: Tensor = places) -> ReverseStep:
            answer = network.predict(x, t, labels)
            return F.reverse_step(*answer, x, places, schedule, network.prediction_type, network.variance_type)

        with torch.no_grad():
            step = predict(x_t) if guide is None else guide(x_t, t, predict)
            z = _next(draws, x_t) if is_random and place else torch.zeros_like(x_t)
            x_t = ancestral_step(step, z) if method == "ancestral" else ddim_step(step, x_t, place, schedule, eta, z)
    return x_t


def ancestral_step(step: ReverseStep, noise: Tensor) -> Tensor:
    """x_{t-1} = mean + sqrt(variance) noise (Ho et al. 2020, alg. 2; Song et al. 2021, eq. 47), no noise at last."""
    return step.mean + (step.log_variance / 2).exp() * noise


def ddim_step(step: ReverseStep, x_t: Tensor, place: int, schedule: NoiseSchedule, eta: float, noise: Tensor) -> Tensor:
    """x_{t-1} = a pred_x0 + sqrt(b^2 - sigma^2) eps + sigma noise (Song, Meng & Ermon 2021, eq. 12 and 16).

    ``place`` is x_t's in the schedule, a and b the signal_scale and noise_scale of the place below, 1 and 0 below 0;
    eps is the noise that pred_x0 leaves in x_t; sigma^2 is eta^2 times the posterior's variance.
    """
    if place == 0:
        return step.pred_x0
    signal_scale, noise_scale = schedule.signal_scale, schedule.noise_scale
    eps = (x_t - signal_scale[place] * step.pred_x0) / noise_scale[place]
    variance = eta**2 * schedule.posterior_log_variance[place].exp()
    direction = (noise_scale[place - 1] ** 2 - variance).clamp(min=0).sqrt() * eps
    return signal_scale[place - 1] * step.pred_x0 + direction + variance.sqrt() * noise


def draw_like(x_t: Tensor, generator: torch.Generator | None) -> Iterator[Tensor]:
    """Standard normal noise like ``x_t``, without end, drawn on the generator's device."""
    source = generator.device if generator is not None else x_t.device
    while True:
        yield torch.randn(x_t.shape, generator=generator, device=source).to(x_t.device)


def _next(draws: Iterator[Tensor], x_t: Tensor) -> Tensor:
    z = next(draws, None)
    if z is None or z.shape != x_t.shape:
        got = "too few" if z is None else f"one of shape {tuple(z.shape)}"
        raise ValueError(f"noise must be a tensor of shape {tuple(x_t.shape)} for every step but the last. Got {got}")
    return z


def _check_num_steps(num_timesteps: int, num_steps: int) -> None:
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(f"num_steps must be in 1...{num_timesteps}. Got {num_steps}")


def _progress_bar(places: Iterable[int], total: int, progress: bool) -> Any:
    if not progress:
        return places
    from tqdm.auto import tqdm

    return tqdm(places, total=total)
