"""How often the host waits for the device in one call, by torch's sync debug mode."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from diffaug_transforms import DeepAugment, DiffAug, DiffAugEnsemble
from diffaug_transforms.classifiers import NormalizedClassifier, cifar_resnet
from diffaug_transforms.robustness import DenoisedSmoothing
from diffaug_transforms.score import Denoiser
from diffaug_transforms.transforms import AnytimeEnsemble

from ..harness.data import side_of
from ..harness.records import Record
from ..harness.timing import synchronize
from .settings import Settings

VIEWS = tuple(range(0, 100, 10))
IMAGES = 4
#: The most waits in one call. The anytime ensemble asks after each view whether it may stop.
AIMS = {
    "DiffAug, uint8": 0,
    "DiffAug, float": 0,
    "ensemble, S given": 0,
    "ensemble, default S": 0,
    "anytime, 10 views": len(VIEWS),
    "smoothing, a part": 0,
    "NormalizedClassifier": 0,
    "Noise2Net, 4 images": 0,
}


def measure(settings: Settings) -> Iterator[Record]:
    for name, call in calls(settings).items():
        for _ in range(2):  # the first call loads and moves the network
            call()
        value = count_syncs(call, settings.device)
        yield settings.record(name, "syncs", value, at_most=AIMS[name], n=1, batch_size=IMAGES)


def calls(settings: Settings) -> dict[str, Callable[[], Any]]:
    """By name, as in ``AIMS``."""
    device = settings.device
    denoiser = Denoiser(settings.network)
    size = side_of(denoiser.network)
    images = torch.rand(IMAGES, 3, size, size, device=device)
    pixels = (images * 255).to(torch.uint8)
    classifier = cifar_resnet(width=8).eval().to(device)
    normalized = NormalizedClassifier(cifar_resnet(width=8), 0.5, 0.25).eval().to(device)
    augment, deep = DiffAug(denoiser), DeepAugment("noise2net")
    given, default = DiffAugEnsemble(classifier, denoiser, timesteps=VIEWS), DiffAugEnsemble(classifier, denoiser)
    anytime = AnytimeEnsemble(given)
    smoothing = DenoisedSmoothing(classifier, denoiser)
    noise = torch.randn_like(images)
    return {
        "DiffAug, uint8": lambda: augment(pixels),
        "DiffAug, float": lambda: augment(images),
        "ensemble, S given": lambda: given.predict_proba(images),
        "ensemble, default S": lambda: default.predict_proba(images),
        "anytime, 10 views": lambda: anytime.predict_proba(images),
        "smoothing, a part": lambda: smoothing.counts(images[0], [noise]),
        "NormalizedClassifier": lambda: normalized(images),
        "Noise2Net, 4 images": lambda: deep(images),
    }


@torch.no_grad()
def count_syncs(call: Callable[[], Any], device: torch.device) -> int:
    """Waits in one call. A CPU has none."""
    if device.type != "cuda":
        call()
        return 0
    synchronize(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)
