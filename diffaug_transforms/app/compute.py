"""What the page computes. Nothing here remembers a user.

prepare: file, corruption, seed ----> Setting, which holds all that the other two depend on
denoise: Setting, t ---------------> the diffused and the denoised image (one network call)
purify: Setting -------------------> the image denoised at the level of its own noise (one network call)
classify: Setting -----------------> the ensemble's views, and the answers by itself, after Purify and under DE
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..robustness import corrupt
from ..score import views_over_time
from ..transforms import DiffAugEnsemble, Purify
from .imagenet import class_names
from .models import ANY_SIZE, AUTOMATIC, Models
from .pictures import fit_picture, read_picture, sample_class

NO_CORRUPTION = "none"
#: The largest seed. A web page's number field holds only the digits of a float64 exactly; 32 bits fit.
MAX_SEED = 2**32 - 1


class Setting(NamedTuple):
    """What a user chose, checked. The same Setting always gives the same results."""

    picture: Tensor  # corrupted, as the classifier sees it: uint8 (3, size, size)
    network: str
    classifier: str | None  # None: there is none for photos
    seed: int  # of the corruption and of all noise
    truth: str | None  # what the picture shows, for the package's samples of CIFAR-10


class Purified(NamedTuple):
    """An image denoised at the level of its own noise."""

    image: Tensor  # (3, size, size) in [0, 1]
    sigma: float  # the noise that was found, on pixels in [0, 1]
    is_changed: bool  # False: no visible noise


class Answer(NamedTuple):
    """The ensemble's views, and the probabilities of the K classes."""

    classes: tuple[str, ...]  # (K,)
    timesteps: tuple[int, ...]  # the set S
    views: Tensor  # (|S|, 3, size, size) in [0, 1]
    view_probabilities: Tensor  # (|S|, K)
    default: Tensor  # (K,), for the picture
    purified: Tensor  # (K,), for the purified picture
    de: Tensor  # (K,), the mean over the views


def prepare(
    models: Models,
    path: str | Path,
    *,
    corruption: str = NO_CORRUPTION,
    severity: int = 3,
    seed: int = 0,
    network: str = AUTOMATIC,
    classifier: str = AUTOMATIC,
) -> Setting:
    """Read, fit and corrupt a picture, and check every choice. Loads the network.

    Raises:
        ValueError, OSError, ImportError: a choice is wrong. The message is one sentence.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must be an integer in 0...{MAX_SEED}. Got {seed}")
    if classifier != AUTOMATIC:
        models.classifier(classifier)
    image = read_picture(path)
    side = min(image.size)
    name = models.classifier_for(side) if classifier == AUTOMATIC else classifier
    # The size that the classifier was trained on. If that is not known, the network's.
    size = None if name is None else models.classifier(name).size
    network = models.network_for(size or side) if network == AUTOMATIC else network
    native = models.denoiser(network).network.image_size
    picture = fit_picture(image, size or native or ANY_SIZE)
    if corruption != NO_CORRUPTION:
        constants = corruption_set(picture.shape[-1])
        picture = corrupt(picture, corruption, severity, corruption_set=constants, seed=seed)
    return Setting(picture, network, name, seed, sample_class(path))


def corruption_set(size: int) -> str:
    """The set whose constants fit images of this side: CIFAR-10-C is made for 32 pixels, ImageNet-C for 224."""
    return "cifar10-c" if size < 128 else "imagenet-c"


@torch.inference_mode()
def denoise(models: Models, setting: Setting, timestep: int) -> tuple[Tensor, Tensor]:
    """The diffused and the denoised image at one timestep, each (3, size, size) in [0, 1].

    The noise depends only on the seed, so moving t changes nothing else. ``diffaug show --seed`` uses the same noise.
    """
    denoiser = models.denoiser(setting.network)
    diffused, denoised = views_over_time(denoiser, _batch(models, setting), [timestep], setting.seed)
    return diffused[0, 0].cpu(), denoised[0, 0].cpu()


@torch.inference_mode()
def purify(models: Models, setting: Setting) -> Purified:
    """The picture denoised at the level of its own noise. A picture without visible noise stays as it is."""
    transform, batch = Purify(models.denoiser(setting.network)), _batch(models, setting)
    params = transform.make_params([batch])
    image = transform.transform(batch, params)[0]
    return Purified(image.cpu(), params["sigmas"].item(), params["selected"].item())


@torch.inference_mode()
def classify(models: Models, setting: Setting, purified: Tensor) -> Answer:
    """The ensemble's views, and the classifier's probabilities by itself, for ``purified`` and over the views.

    The Setting must have a classifier.
    """
    opened = models.classifier(setting.classifier or "")
    # The generator is on the CPU, so that every device has the same noise.
    generator = torch.Generator().manual_seed(setting.seed)
    ensemble = DiffAugEnsemble(opened.module, models.denoiser(setting.network), generator=generator)
    image = _batch(models, setting)
    views = ensemble.views(image)
    probabilities = ensemble.classify(views)[:, 0].softmax(dim=-1).cpu()
    both = torch.cat([image, purified[None].to(image)])
    default, after_purify = ensemble.classify(both[None])[0].softmax(dim=-1).cpu()
    classes = class_names(opened, probabilities.shape[-1])
    steps = ensemble.view_timesteps_for(image.shape)
    return Answer(classes, steps, views[:, 0].cpu(), probabilities, default, after_purify, probabilities.mean(0))


def scales(models: Models, setting: Setting, timestep: int) -> tuple[float, float]:
    """The factors of the image and of the noise in x_t. For VP: sqrt(alphas_cumprod) and sqrt(1 - alphas_cumprod)."""
    schedule = models.denoiser(setting.network).network.schedule
    return schedule.signal_scale[timestep].item(), schedule.noise_scale[timestep].item()


def size_warning(models: Models, setting: Setting) -> str | None:
    """A sentence if the picture's size and the network's differ by more than a factor of 2. Otherwise None."""
    size, native = setting.picture.shape[-1], models.denoiser(setting.network).network.image_size
    if native is None or max(size, native) <= 2 * min(size, native):
        return None
    sizes = f"{size}x{size} pixels are far from the denoising network's {native}x{native}"
    return f"the picture's {sizes}; choose another denoising network"


def _batch(models: Models, setting: Setting) -> Tensor:
    return setting.picture[None].to(models.device) / 255
