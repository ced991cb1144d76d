"""The small network with and without CUDA graphs, and DiffAug's time over that of its bare U-Net."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from diffaug_transforms import DiffAug
from diffaug_transforms.score import Denoiser

from ..harness.data import side_of
from ..harness.records import Record
from ..harness.timing import Methods, several
from ..throughput import bare_unet
from .adm256 import compiled_core
from .settings import Settings
from .timing import ratio_record, speed_records, time_methods

UNET, DIFFAUG, GRAPHS = "bare U-Net", "DiffAug", "DiffAug's core, CUDA graphs"
#: DiffAug is its network call: the rest may take a tenth of it at most. Graphs must not slow it down.
AIMS = {(DIFFAUG, UNET): 1.1, (GRAPHS, DIFFAUG): 1.0}
CALLS = 5  # between two waits


def measure(settings: Settings) -> Iterator[Record]:
    denoiser = Denoiser(settings.network)
    size = side_of(denoiser.network)
    for batch in settings.choose((1, 4, 16, 64, 256), (1,)):
        torch.compiler.reset()
        images = torch.rand(batch, 3, size, size, device=settings.device)
        network, augment = denoiser.ready(settings.device, batch), DiffAug(denoiser)
        methods: Methods = {UNET: bare_unet(network, images), DIFFAUG: lambda: augment(images)}  # noqa: B023
        methods[GRAPHS] = compiled_core(denoiser, images, "reduce-overhead")
        fields = {"batch_size": batch, "size": size, "dtype": str(network.dtype).removeprefix("torch.")}
        repeated = {name: several(method, CALLS) for name, method in methods.items()}
        taken, failures = time_methods(settings, repeated, **fields)
        yield from failures
        yield from speed_records(settings, taken, batch * CALLS, **fields)
        for (name, other), aim in AIMS.items():
            yield from ratio_record(settings, taken, name, other, aim, **fields)
