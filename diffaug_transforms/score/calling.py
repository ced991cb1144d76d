"""How a U-Net is called and what it answers, where that is not what ``ScoreNetwork`` promises of it.

``ScoreNetwork`` takes x_t on the scale of [-1, 1] images and timesteps. The variance-exploding networks of Song et al.
2021 (NCSN++, with diffusers' ScoreSdeVeScheduler) were trained on [0, 1] images, are told sigma, not the timestep, and
answer with the score on their own scale:

    x_t ──(x_t + 1) / 2──▶ U-Net(own x_t, sigma / 2) = 2 score ──half──▶ score
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .functional import PREDICTION_TYPES, VARIANCE_TYPES, to_signed, to_unit
from .schedule import NoiseSchedule

if TYPE_CHECKING:
    from diffusers import SchedulerMixin, UNet2DModel

CONDITIONINGS = ("timestep", "sigma")
#: Of the images that a network was trained on, without noise.
IMAGE_RANGES = ((-1, 1), (0, 1))


def diffusers_arguments(unet: UNet2DModel, scheduler: SchedulerMixin) -> dict[str, Any]:
    """``ScoreNetwork``'s arguments for a U-Net that was trained with this scheduler and is sampled by its pipeline."""
    config = scheduler.config
    doubled = unet.config.out_channels == 2 * unet.config.in_channels
    exploding = hasattr(scheduler, "discrete_sigmas")
    return {
        "prediction_type": config.get("prediction_type", "score" if exploding else "epsilon"),
        "variance_type": "learned_range"
        if doubled
        else config.get("variance_type", "fixed_small").removesuffix("_log"),
        "image_range": IMAGE_RANGES[exploding],
        "conditioning": CONDITIONINGS[exploding],
    }


def check_call(
    schedule: NoiseSchedule,
    prediction_type: str,
    variance_type: str,
    image_range: tuple[float, float],
    conditioning: str,
) -> None:
    """ValueError for values that are unknown or do not go together."""
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type must be one of {PREDICTION_TYPES}. Got {prediction_type!r}")
    if variance_type not in VARIANCE_TYPES:
        raise ValueError(f"variance_type must be one of {VARIANCE_TYPES}. Got {variance_type!r}")
    if conditioning not in CONDITIONINGS:
        raise ValueError(f"conditioning must be one of {CONDITIONINGS}. Got {conditioning!r}")
    if image_range not in IMAGE_RANGES:
        raise ValueError(f"image_range must be one of {IMAGE_RANGES}. Got {image_range}")
    if image_range == (0, 1) and (not schedule.exploding or prediction_type == "v_prediction"):
        raise ValueError(f"image_range (0, 1) needs an exploding schedule and no v_prediction. Got {prediction_type!r}")


def to_own_scale(
    x_t: Tensor, timesteps: Tensor, schedule: NoiseSchedule, image_range: tuple[float, float], conditioning: str
) -> tuple[Tensor, Tensor]:
    """x_t on the network's own scale, and what it is told of the noise: the timesteps, or sigma on that scale, (B,)."""
    halved = image_range == (0, 1)
    told = timesteps
    if conditioning == "sigma":
        told = schedule.sigmas[timesteps] / 2 if halved else schedule.sigmas[timesteps]
    return to_unit(x_t) if halved else x_t, told


def from_own_scale(prediction: Tensor, prediction_type: str, image_range: tuple[float, float]) -> Tensor:
    """A prediction on the scale of [-1, 1] images, where a score is half as large and noise the same."""
    if image_range == (-1, 1) or prediction_type == "epsilon":
        return prediction
    return prediction / 2 if prediction_type == "score" else to_signed(prediction)


def check_labels(labels: Tensor, num_classes: int) -> Tensor:
    """The labels; ValueError unless all lie in 0...num_classes-1."""
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise ValueError(f"labels must be in 0...{num_classes - 1}. Got {int(wrong[0])}")
    return labels


@contextmanager
def embedding_in_float32(unet: nn.Module) -> Iterator[None]:
    """Leave the frequencies of a Fourier time embedding in float32, whatever dtype the U-Net is cast to.

    A frequency of 50 is off by up to .125 in bfloat16, and times 2 pi log sigma that is any phase at all.
    """
    projection: Any = getattr(unet, "time_proj", None)
    frequencies = getattr(projection, "weight", None)
    if frequencies is None:
        yield
        return
    exact = frequencies.detach()
    yield
    projection.weight = nn.Parameter(exact.to(projection.weight.device), requires_grad=False)
