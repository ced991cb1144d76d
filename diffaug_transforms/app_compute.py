"""What `diffaug app` computes, without the page: functions of a picture, a seed, t and the shared networks.

prepare: file, corruption, seed ----> Setting, which holds all that the other two depend on
denoise: Setting, t ---------------> the diffused and the denoised image (one network call)
classify: Setting -----------------> the ensemble's views, and the probabilities under Default and under DE
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .app_models import Models
from .app_picture import fit_picture, read_picture
from .robustness import corrupt
from .score import diffuse, to_signed, to_unit
from .transforms.checks import size_warning
from .transforms.ensemble import log_mean_probabilities

NO_CORRUPTION = "none"
#: A web page's number field holds no more digits exactly than a float64 does; this is what fits 32 bits.
MAX_SEED = 2**32 - 1


class Setting(NamedTuple):
    """What a user chose, checked. Whoever has it gets the same results.

    Attributes:
        picture: as the classifier sees it, corrupted: uint8 (3, size, size).
        network, classifier: names that ``Models`` knows.
        seed: of the corruption and of all noise.
    """

    picture: Tensor
    network: str
    classifier: str
    seed: int


class Answer(NamedTuple):
    """Attributes:
    timesteps: the set S.
    views: (|S|, 3, size, size) in [0, 1].
    view_probabilities: (|S|, K), the classifier's for each view.
    default: (K,), the classifier's for the picture.
    de: (K,), the ensemble's: the mean over the views.
    """

    timesteps: tuple[int, ...]
    views: Tensor
    view_probabilities: Tensor
    default: Tensor
    de: Tensor


def prepare(
    models: Models,
    path: str | Path,
    *,
    corruption: str = NO_CORRUPTION,
    severity: int = 3,
    seed: int = 0,
    network: str = "cifar10",
    classifier: str = "cifar10-diffaug",
) -> Setting:
    """Read, fit and corrupt a picture, and check every choice; loads the network.

    Args:
        path: a file as ``read_picture`` takes it.
        corruption: "none" or one of ``robustness.CORRUPTIONS``, with the constants of ``corruption_set``.
        severity: 1...5.
        seed: 0...``MAX_SEED``.

    Raises:
        ValueError, OSError, ImportError: with one sentence that says what is wrong.
    """
    models.classifier(classifier)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must be an integer in 0...{MAX_SEED}. Got {seed}")
    models.ensemble(network)
    picture = fit_picture(read_picture(path), models.size(classifier, network))
    if corruption != NO_CORRUPTION:
        picture = corrupt(picture, corruption, severity, dataset=corruption_set(picture.shape[-1]), seed=seed)
    return Setting(picture, network, classifier, seed)


def corruption_set(size: int) -> str:
    """Whose constants fit images of this side: CIFAR-10-C's are for 32 pixels, ImageNet-C's for 224."""
    return "cifar10-c" if size < 128 else "imagenet-c"


@torch.inference_mode()
def denoise(models: Models, setting: Setting, timestep: int) -> tuple[Tensor, Tensor]:
    """The diffused and the denoised image at one timestep, each (3, size, size) in [0, 1].

    The noise is the seed's and the same at all timesteps, so that sliding t changes nothing else. It is also that of
    the ensemble's first view above t = 0, and of ``diffaug show --seed``.

    Raises:
        ValueError: a timestep that the network does not have.
    """
    augment = models.ensemble(setting.network).diffaug
    augment.network.schedule.check_timesteps([timestep])
    image = _batch(models, setting)
    noise = _noise(setting, 1)[0].to(models.device)
    t = torch.tensor([timestep], device=models.device)
    diffused = to_unit(diffuse(to_signed(image), t, noise, augment.network.schedule)).clamp(0, 1)
    return diffused[0].cpu(), augment.denoise(image, t, noise)[0].cpu()


@torch.inference_mode()
def classify(models: Models, setting: Setting) -> Answer:
    """The ensemble's views of the picture, and the classifier's probabilities by itself and over the views."""
    ensemble, classifier = models.ensemble(setting.network), models.classifier(setting.classifier)
    image = _batch(models, setting)
    noise = _noise(setting, sum(t > 0 for t in ensemble.view_timesteps)).to(models.device)
    views = ensemble.views(image, noise)
    logits = classifier(views.flatten(0, 1))
    return Answer(
        ensemble.view_timesteps,
        views[:, 0].cpu(),
        logits.float().softmax(dim=-1).cpu(),
        classifier(image)[0].float().softmax(dim=-1).cpu(),
        log_mean_probabilities(logits[:, None])[0].exp().cpu(),
    )


def scales(models: Models, setting: Setting, timestep: int) -> tuple[float, float]:
    """The factors of the image and of the noise in x_t: sqrt(alphas_cumprod) and sqrt(1 - alphas_cumprod), if VP."""
    schedule = models.ensemble(setting.network).diffaug.network.schedule
    signal, noise = schedule.scales(torch.tensor([timestep]), 1)
    return signal.item(), noise.item()


def far_in_size(models: Models, setting: Setting) -> str | None:
    """What to say where the picture is far from the network's native size; else None."""
    return size_warning(setting.picture[None], models.ensemble(setting.network).diffaug.network)


def _batch(models: Models, setting: Setting) -> Tensor:
    return setting.picture[None].to(models.device) / 255


def _noise(setting: Setting, number: int) -> Tensor:
    """Noise (number, 1, 3, size, size) of the seed, drawn on the CPU so that every device has the same."""
    return torch.randn((number, 1, *setting.picture.shape), generator=torch.Generator().manual_seed(setting.seed))
