"""One loop back from noise to images, ancestral or DDIM, over any of the network's timesteps, with a hook for a guide.

    x_T ──predict──▶ pred_x0, mean, variance ──guide──▶ the same, shifted ──noise──▶ x_{t-1} ... x_0

Robustness's DDA and guided generation both use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import (
    as_number,
    as_timesteps,
    check_callable,
    check_choice,
    check_flags,
    check_generator,
    check_instance,
)
from ..deprecated import warn_renamed
from ..without_waiting import send
from .functional import ReverseStep, reverse_step
from .network import ScoreNetwork, check_noisy_images
from .schedule import NoiseSchedule
from .timesteps import space_timesteps

Predict = Callable[[Tensor], ReverseStep]
#: ``guide(x_t, timesteps, predict)`` stands in for ``predict(x_t)`` and returns what the step shall use. It calls
#: ``predict`` itself, so that it decides whether gradients go through the network.
Guide = Callable[[Tensor, Tensor, Predict], ReverseStep]

METHODS = ("ancestral", "ddim")


def spaced_timesteps(num_timesteps: int, num_steps: int) -> tuple[int, ...]:
    """Old name of ``space_timesteps``."""
    warn_renamed("spaced_timesteps", "space_timesteps")
    return space_timesteps(num_timesteps, num_steps)


def strided_timesteps(num_timesteps: int, num_steps: int) -> tuple[int, ...]:
    """Old name of ``space_timesteps(..., "leading")``."""
    warn_renamed("strided_timesteps", 'space_timesteps(..., "leading")')
    return space_timesteps(num_timesteps, num_steps, "leading")


def sample(
    network: ScoreNetwork,
    x_t: Tensor,
    timesteps: Sequence[int] | None = None,
    *,
    method: str = "ancestral",
    eta: float = 0.0,
    clip: bool = True,
    labels: Tensor | None = None,
    guide: Guide | None = None,
    noise: Iterable[Tensor] | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Tensor:
    """Step back from ``x_t`` through ``timesteps`` to images.

    Args:
        network: on the device of ``x_t``.
        x_t: (B, C, H, W), as noisy as the last of ``timesteps``. For T-1 that is standard normal noise times
            ``network.schedule.noise_scale[-1]``: 1, or sigma_max if the schedule is variance-exploding.
        timesteps: of the network, ascending; None: all that it takes. See ``space_timesteps``.
        method: ``"ancestral"`` (Ho et al. 2020, alg. 2) or ``"ddim"`` (Song, Meng & Ermon 2021, eq. 12).
        eta: DDIM's share of noise, in [0, 1]; 0: deterministic.
        clip: clip pred_x0 to [-1, 1] at each step, as guided-diffusion does. False: do not, as score_sde for its
            variance-exploding networks.
        labels: int64 (B,) for conditional networks, or None.
        guide: shifts each step's prediction, see ``Guide``. Ancestral steps read its mean and log-variance, DDIM its
            pred_x0.
        noise: one tensor like ``x_t`` for each step but the last, in the order of the steps; None draws them.
        generator: source of those draws; None: torch's global one.
        progress: show a progress bar over the steps.

    Returns:
        float32 (B, C, H, W) in about [-1, 1]: the last step's mean, without noise.

    Raises:
        ValueError, TypeError: unknown method, eta out of range, timesteps that do not ascend, too few noise tensors, or
            an argument of another kind.

    Example:
        >>> network = load_score_network("cifar10")
        >>> steps = space_timesteps(network.num_timesteps, 10)
        >>> sample(network, torch.randn(2, 3, 32, 32), steps, method="ddim").shape
        torch.Size([2, 3, 32, 32])
    """
    check_instance("network", network, ScoreNetwork)
    check_choice("method", method, METHODS)
    eta = as_number("eta", eta, at_least=0, at_most=1)
    check_callable("guide", guide, "a function of x_t, timesteps and predict")
    check_generator(generator)
    check_flags(clip=clip, progress=progress)
    steps = as_timesteps(timesteps) or network.schedule.timesteps
    schedule = network.schedule.respaced(steps)
    check_instance("noise", noise, (Iterable, type(None)))
    check_noisy_images(x_t, network.in_channels, network.stride)
    x_t, _, labels = network.check_inputs(x_t, torch.full((len(x_t),), steps[-1]), labels)
    if not len(x_t):
        return x_t
    draws = draw_like(x_t, generator) if noise is None else iter(noise)
    is_random = method == "ancestral" or eta > 0
    for i in _progress_bar(reversed(range(len(steps))), len(steps), progress):
        t = torch.full((len(x_t),), steps[i], device=x_t.device)
        index = torch.full_like(t, i)

        def predict(x: Tensor, t: Tensor = t, index: Tensor = index) -> ReverseStep:
            answer = network.predict(x, t, labels)
            return reverse_step(*answer, x, index, schedule, network.prediction_type, network.variance_type, clip)

        with torch.no_grad():
            step = predict(x_t) if guide is None else guide(x_t, t, predict)
            z = _next(draws, x_t) if is_random and i else torch.zeros_like(x_t)
            x_t = ancestral_step(step, z) if method == "ancestral" else ddim_step(step, x_t, i, schedule, eta, z)
    return x_t


def ancestral_step(step: ReverseStep, noise: Tensor) -> Tensor:
    """x_{t-1} = mean + sqrt(variance) noise (Ho et al. 2020, alg. 2; Song et al. 2021, eq. 47), no noise at last."""
    return step.mean + (step.log_variance / 2).exp() * noise


def ddim_step(step: ReverseStep, x_t: Tensor, index: int, schedule: NoiseSchedule, eta: float, noise: Tensor) -> Tensor:
    """x_{t-1} = a pred_x0 + sqrt(b^2 - sigma^2) eps + sigma noise (Song, Meng & Ermon 2021, eq. 12 and 16).

    ``index`` is that of x_t in the schedule. a and b are the signal_scale and noise_scale at index - 1, and 1 and 0
    below index 0. eps is the noise that pred_x0 leaves in x_t. sigma^2 is eta^2 times the posterior's variance.
    """
    if index == 0:
        return step.pred_x0
    signal_scale, noise_scale = schedule.signal_scale, schedule.noise_scale
    eps = (x_t - signal_scale[index] * step.pred_x0) / noise_scale[index]
    variance = eta**2 * schedule.posterior_log_variance[index].exp()
    direction = (noise_scale[index - 1] ** 2 - variance).clamp(min=0).sqrt() * eps
    return signal_scale[index - 1] * step.pred_x0 + direction + variance.sqrt() * noise


def draw_like(x_t: Tensor, generator: torch.Generator | None) -> Iterator[Tensor]:
    """Standard normal noise like ``x_t``, without end, drawn on the generator's device."""
    source = generator.device if generator is not None else x_t.device
    while True:
        yield send(torch.randn(x_t.shape, generator=generator, device=source), x_t.device)


def _next(draws: Iterator[Tensor], x_t: Tensor) -> Tensor:
    z = next(draws, None)
    if z is None or z.shape != x_t.shape:
        got = "too few" if z is None else f"one of shape {tuple(z.shape)}"
        raise ValueError(f"noise must be a tensor of shape {tuple(x_t.shape)} for every step but the last. Got {got}")
    return z


def _progress_bar(indices: Iterable[int], total: int, progress: bool) -> Any:
    if not progress:
        return indices
    from tqdm.auto import tqdm

    return tqdm(indices, total=total)
