"""Memory of the ensemble of ADM-256 and a ResNet-50: B images are B * |S| views."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from diffaug_transforms import DiffAugEnsemble, ScoreNetwork
from diffaug_transforms.classifiers import build_model
from diffaug_transforms.score import Denoiser

from ..harness.records import Record
from ..harness.timing import free, peak_bytes, synchronize
from .adm256 import SIZE, TINY_SIZE
from .settings import Settings

#: The default must take as many images without running out of memory.
AIM = 32


def measure(settings: Settings) -> Iterator[Record]:
    network = settings.adm256()
    if settings.device.type == "cuda":
        total = torch.cuda.get_device_properties(settings.device).total_memory
        yield settings.record("the GPU", "memory_bytes", total, n=1)
    for max_batch in (None, 64):
        yield from largest_batch(settings, network, max_batch)
        free(settings.device)


def largest_batch(settings: Settings, network: ScoreNetwork, max_batch: int | None) -> Iterator[Record]:
    """Peak bytes for 1, 2, 4, ... images until one batch does not fit, and the largest one that fits."""
    classifier = build_model("cifar_resnet-8" if settings.tiny else "resnet50", 1000).eval().to(settings.device)
    ensemble = DiffAugEnsemble(classifier, Denoiser(network, max_batch=max_batch))
    size = TINY_SIZE if settings.tiny else SIZE
    method = "ensemble, default max_batch" if max_batch is None else f"ensemble, max_batch={max_batch}"
    fields = {"size": size, "views": len(ensemble.view_timesteps)}
    largest = 0
    ensemble.predict_proba(torch.rand(1, 3, size, size, device=settings.device))  # loads the network
    for images in settings.choose((1, 2, 4, 8, 16, 32, 64, 128, 256), (1, 2)):
        try:
            batch = torch.rand(images, 3, size, size, device=settings.device)
            used = peak_bytes(lambda: ensemble.predict_proba(batch), settings.device)  # noqa: B023
            synchronize(settings.device)
        except torch.OutOfMemoryError:
            break
        except RuntimeError as error:  # such as tensors beyond what a kernel can index
            yield settings.failed(method, error, batch_size=images)
            break
        largest = images
        yield settings.record(method, "peak_bytes", used, n=1, batch_size=images, **fields)
        free(settings.device)
    aim = AIM if max_batch is None else None
    yield settings.record(method, "largest_batch", largest, at_least=aim, n=1, **fields)
