"""The networks that all users of `diffaug app` share. Nothing here remembers a user."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import nn

from .classifiers import NormalizedClassifier, load_classifier
from .score import list_score_networks
from .transforms import DiffAugEnsemble

#: Score networks that are kept in memory; beyond, the one that was loaded first goes.
MAX_NETWORKS = 3


class Models:
    """The classifiers and score networks that all users share, each loaded once; safe to use from many threads.

    Args:
        classifiers: embedded names and folders that ``load_classifier`` takes; loaded at once.
        network: the default one, loaded at once; the named ones stand beside it.
        any_network: whether users may name other networks: Hub repositories and paths on this machine.
        device: where everything runs.

    Raises:
        As ``load_classifier`` and ``load_score_network``.

    Example:
        >>> models = Models()
        >>> models.classifier("cifar10-diffaug").classes[:3], models.size("cifar10-diffaug", "cifar10")
        (('airplane', 'automobile', 'bird'), 32)
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
        self._ensembles: dict[str, DiffAugEnsemble] = {}
        self._lock = threading.Lock()
        self.ensemble(network)

    def classifier(self, name: str) -> NormalizedClassifier:
        if name not in self.classifiers:
            raise ValueError(f"classifier must be one of {', '.join(self.classifiers)}. Got {name!r}")
        return self.classifiers[name]

    def ensemble(self, network: str) -> DiffAugEnsemble:
        """An ensemble without a classifier around a network: its views, its timesteps, its ``diffaug``.

        Only the first call of a network waits, and no call waits for another network that is being downloaded, unless
        it needs a new one too.
        """
        if not self.any_network and network not in self.networks:
            raise ValueError(f"network must be one of {', '.join(self.networks)}. Got {network!r}")
        found = self._ensembles.get(network)
        if found is not None:
            return found
        with self._lock:
            if network not in self._ensembles:
                made = DiffAugEnsemble(nn.Identity(), network)
                # A first image: loads, moves to the device, and fails here if the network cannot do without labels.
                made.diffaug(torch.zeros(1, 3, 32, 32, device=self.device))
                if len(self._ensembles) == MAX_NETWORKS:
                    del self._ensembles[next(iter(self._ensembles))]
                self._ensembles[network] = made
            return self._ensembles[network]

    def size(self, classifier: str, network: str) -> int:
        """Side of the images that a classifier was trained on, where it is known; else the network's."""
        return self.classifier(classifier).size or self.ensemble(network).diffaug.network.image_size
