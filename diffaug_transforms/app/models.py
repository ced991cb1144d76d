"""The classifiers and score networks that all users of the page share, and which of them fit a picture."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch

from ..robustness.evaluation.classifiers import OpenedClassifier, open_classifier
from ..score import Denoiser, list_score_networks
from ..score.hub import embedded_network
from .imagenet import find_imagenet_classifier

#: The choice that leaves it to the picture's size which classifier and which network are used.
AUTOMATIC = "automatic"
#: The size of a picture if neither the classifier nor the network has one.
ANY_SIZE = 224
#: Score networks that are kept in memory. If one more is loaded, the one that was loaded first goes.
MAX_NETWORKS = 3


class Models:
    """Each classifier and score network is loaded once. Safe to use from many threads.

    Args:
        classifiers: what ``open_classifier`` takes. They are loaded at once. If none of them is for photos, an ImageNet
            classifier comes after them, if one is installed.
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
        self.classifiers: dict[str, OpenedClassifier] = {name: open_classifier(name) for name in classifiers}
        if not any(is_for_photos(opened) for opened in self.classifiers.values()):
            self.classifiers |= find_imagenet_classifier()
        for opened in self.classifiers.values():
            opened.module.to(self.device)
        self.network = network
        self.networks = tuple(dict.fromkeys([network, *list_score_networks()]))
        self.any_network = any_network
        self._denoisers: dict[str, Denoiser] = {}
        self._lock = threading.Lock()
        self.native_size = self.denoiser(network).network.image_size

    def classifier(self, name: str) -> OpenedClassifier:
        if name not in self.classifiers:
            raise ValueError(f"classifier must be one of {', '.join(self.classifiers)}. Got {name!r}")
        return self.classifiers[name]

    def classifier_for(self, side: int) -> str | None:
        """The first classifier made for pictures like this one, by its shorter side in pixels.

        A small picture gets the first one of all if none is made for small pictures. A photo gets None then: a
        classifier of small pictures would see too little of it.
        """
        is_photo = embedded_network(side, side) == "photos"
        fitting = [name for name, opened in self.classifiers.items() if is_for_photos(opened) == is_photo]
        return next(iter([*fitting, *([] if is_photo else self.classifiers)]), None)

    def network_for(self, side: int) -> str:
        """The default network if it fits pictures of this side, otherwise the embedded one that does."""
        native = self.native_size
        is_near = native is None or max(side, native) <= 2 * min(side, native)
        return self.network if is_near else embedded_network(side, side)

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


def is_for_photos(classifier: OpenedClassifier) -> bool:
    """Whether a classifier is made for pictures that the embedded network ``photos`` is for. Yes if it is not known."""
    return classifier.size is None or embedded_network(classifier.size, classifier.size) == "photos"
