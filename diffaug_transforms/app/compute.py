"""The networks that all users of the page share, and what is computed with them. Nothing here remembers a user.

prepare: file, corruption, seed ----> Setting, which holds all that the other two depend on
denoise: Setting, t ---------------> the diffused and the denoised image (one network call)
classify: Setting -----------------> the ensemble's views, and the probabilities under Default and under DE
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..classifiers import NormalizedClassifier, load_classifier
from ..robustness import corrupt
from ..score import Denoiser, list_score_networks, views_over_time
from ..transforms import DiffAugEnsemble
from .pictures import fit_picture, read_picture

#: The size of a picture if neither the classifier nor the network has one.
ANY_SIZE = 224
#: Score networks that are kept in memory. If one more is loaded, the one that was loaded first goes.
MAX_NETWORKS = 3
NO_CORRUPTION = "none"
#: The largest seed. A web page's number field holds only the digits of a float64 exactly; 32 bits fit.
MAX_SEED = 2**32 - 1


class Models:
    """The classifiers and score networks that all users share. Each is loaded once. Safe to use from many threads.

    Args:
        classifiers: embedded names and folders that ``load_classifier`` takes. They are loaded at once.
        network: the default score network. It is loaded at once. Users may also choose every network that has a name.
        any_network: whether users may give Hub repositories and paths on this machine.
        device: where everything runs.
    """

    def __init__(
        self,
        classifiers: Sequence[str] = ("cifar10-diffaug",),
        network: str = "cifar10",
        *,
        any_network: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.classifiers = {name: load_classifier(name).to(self.device) for name in classifiers}
        self.networks = tuple(dict.fromkeys([network, *list_score_networks()]))
        self.any_network = any_network
        self._denoisers: dict[str, Denoiser] = {}
        self._lock = threading.Lock()
        self.denoiser(network)

    def classifier(self, name: str) -> NormalizedClassifier:
        if name not in self.classifiers:
            raise ValueError(f"classifier must be one of {', '.join(self.classifiers)}. Got {name!r}")
        return self.classifiers[name]

    def denoiser(self, network: str) -> Denoiser:
        """The Denoiser of a network, ready on the device. One that is loaded never waits for another's download."""
        if not self.any_network and network not in self.networks:
            raise ValueError(f"network must be one of {', '.join(self.networks)}. Got {network!r}")
        if (found := self._denoisers.get(network)) is not None:
            return found
        with self._lock:
            if network not in self._denoisers:
                made = Denoiser(network)
                # A first image: fails here if the network cannot do without labels.
                size = made.network.image_size or ANY_SIZE
                black = torch.zeros(1, made.network.in_channels, size, size, device=self.device)
                made(black, torch.full((1,), made.network.schedule.timesteps[-1], device=self.device), black)
                if len(self._denoisers) == MAX_NETWORKS:
                    del self._denoisers[next(iter(self._denoisers))]
                self._denoisers[network] = made
            return self._denoisers[network]


class Setting(NamedTuple):
    """What a user chose, checked. The same Setting always gives the same results."""

    picture: Tensor  # corrupted, as the classifier sees it: uint8 (3, size, size)
    network: str
    classifier: str
    seed: int  # of the corruption and of all noise


class Answer(NamedTuple):
    """The ensemble's views, and the probabilities of the K classes."""

    timesteps: tuple[int, ...]  # the set S
    views: Tensor  # (|S|, 3, size, size) in [0, 1]
    view_probabilities: Tensor  # (|S|, K), the classifier's for each view
    default: Tensor  # (K,), the classifier's for the picture
    de: Tensor  # (K,), the mean over the views


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
    """Read, fit and corrupt a picture, and check every choice. Loads the network.

    Raises:
        ValueError, OSError, ImportError: a choice is wrong. The message is one sentence.
    """
    size = models.classifier(classifier).size
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must be an integer in 0...{MAX_SEED}. Got {seed}")
    native = models.denoiser(network).network.image_size
    # The size that the classifier was trained on. If that is not known, the network's.
    picture = fit_picture(read_picture(path), size or native or ANY_SIZE)
    if corruption != NO_CORRUPTION:
        constants = corruption_set(picture.shape[-1])
        picture = corrupt(picture, corruption, severity, corruption_set=constants, seed=seed)
    return Setting(picture, network, classifier, seed)


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
def classify(models: Models, setting: Setting) -> Answer:
    """The ensemble's views of the picture, and the classifier's probabilities by itself and over the views."""
    denoiser, classifier = models.denoiser(setting.network), models.classifier(setting.classifier)
    # The generator is on the CPU, so that every device has the same noise.
    ensemble = DiffAugEnsemble(classifier, denoiser, generator=torch.Generator().manual_seed(setting.seed))
    image = _batch(models, setting)
    views = ensemble.views(image)
    probabilities = ensemble.classify(views)[:, 0].float().softmax(dim=-1).cpu()
    default = classifier(image)[0].float().softmax(dim=-1).cpu()
    steps = ensemble.view_timesteps_for(image.shape)
    return Answer(steps, views[:, 0].cpu(), probabilities, default, probabilities.mean(0))


def scales(models: Models, setting: Setting, timestep: int) -> tuple[float, float]:
    """The factors of the image and of the noise in x_t. For VP: sqrt(alphas_cumprod) and sqrt(1 - alphas_cumprod)."""
    schedule = models.denoiser(setting.network).network.schedule
    return schedule.signal_scale[timestep].item(), schedule.noise_scale[timestep].item()


def size_warning(models: Models, setting: Setting) -> str | None:
    """A sentence if the picture's size and the network's differ by more than a factor of 2. Otherwise None."""
    size, native = setting.picture.shape[-1], models.denoiser(setting.network).network.image_size
    if native is None or max(size, native) <= 2 * min(size, native):
        return None
    sizes = f"{size}x{size} pixels are far from the network's {native}x{native}"
    return f"the picture's {sizes}; choose another score network"


def _batch(models: Models, setting: Setting) -> Tensor:
    return setting.picture[None].to(models.device) / 255
