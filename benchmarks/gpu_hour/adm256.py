"""ADM-256 at 224 pixels: DiffAug eager, compiled and autotuned, beside the authors' way and float32.

The weights are random; speed needs no others. Methods that are slow to compile come last, so that a part which is
stopped keeps the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

import torch
from torch import Tensor

from diffaug_transforms import DiffAug, ScoreNetwork
from diffaug_transforms.score import Denoiser
from diffaug_transforms.score.denoiser import denoise

from ..harness.ceiling import products
from ..harness.records import Record
from ..harness.timing import Methods, cudnn_benchmark, free, peak_bytes
from ..throughput import authors_way, unet_flops
from .settings import Settings
from .timing import ratio_record, speed_records, time_methods

SIZE, TINY_SIZE = 224, 32
EAGER, COMPILED, AUTOTUNED = "DiffAug, bfloat16", "DiffAug, bfloat16, compiled", "core, bfloat16, max-autotune"
BENCHMARK, AUTHORS, FLOAT32 = "DiffAug, bfloat16, cudnn.benchmark", "authors' way, float16 torso", "DiffAug, float32"
PRODUCT = "matrix product"
#: The most time of the first method over that of the second.
AIMS = {(EAGER, AUTHORS): 1.0, (EAGER, FLOAT32): 1.0, (COMPILED, EAGER): 1.0, (AUTOTUNED, EAGER): 1.0}


def measure(settings: Settings) -> Iterator[Record]:
    network = settings.adm256()
    size = TINY_SIZE if settings.tiny else SIZE
    batches = settings.choose((16, 32, 64), (1,))
    operations = unet_flops(network.to(settings.device), torch.zeros(1, 3, size, size, device=settings.device))
    network = network.cpu()
    yield settings.record("U-Net, one image", "unet_gflops", operations / 1e9, n=1, size=size)
    for batch in batches:
        images = torch.rand(batch, 3, size, size, device=settings.device)
        yield from compare(settings, eager_methods(network, images), images, operations)
    for batch in batches:
        images = torch.rand(batch, 3, size, size, device=settings.device)
        yield from compare(settings, compiled_methods(network, images), images, operations)
    for batch in batches:
        images = torch.rand(batch, 3, size, size, device=settings.device)
        yield from compare(settings, autotuned_methods(network, images), images, operations)


def compare(settings: Settings, methods: Methods, images: Tensor, operations: int) -> Iterator[Record]:
    """Speed, memory and share of the matrix product of each method, and the ratios, all of one run."""
    fields = {"batch_size": len(images), "size": images.shape[-1]}
    reference = products(settings.side, torch.bfloat16, settings.device)
    taken, failures = time_methods(settings, {**methods, PRODUCT: reference.run}, **fields)
    yield from failures
    ceiling = reference.speed(taken.pop(PRODUCT))
    yield from speed_records(settings, taken, len(images), **fields)
    for name, own in taken.items():
        share = operations * len(images) / median(own) / ceiling
        yield settings.record(name, "matmul_share", share, n=len(own), **fields)
        yield settings.record(name, "peak_bytes", peak_bytes(methods[name], settings.device), n=1, **fields)
    for (name, other), aim in AIMS.items():
        yield from ratio_record(settings, taken, name, other, aim, **fields)
    methods.clear()
    free(settings.device)


def eager_methods(network: ScoreNetwork, images: Tensor) -> Methods:
    augment = DiffAug(network, dtype=torch.bfloat16)
    single = DiffAug(network, dtype=torch.float32)

    def with_benchmark() -> Tensor:
        with cudnn_benchmark():
            return augment(images)

    return {
        FLOAT32: lambda: single(images),
        AUTHORS: authors_way(network, images, torch.float16),
        EAGER: lambda: augment(images),
        BENCHMARK: with_benchmark,
    }


def compiled_methods(network: ScoreNetwork, images: Tensor) -> Methods:
    torch.compiler.reset()  # or torch would compile for any batch size after the second one
    augment, compiled = DiffAug(network, dtype=torch.bfloat16), DiffAug(network, dtype=torch.bfloat16, compile=True)
    return {EAGER: lambda: augment(images), COMPILED: lambda: compiled(images)}


def autotuned_methods(network: ScoreNetwork, images: Tensor) -> Methods:
    """Without CUDA graphs: launches cost little here, and ``peak_bytes`` does not see the memory of graphs."""
    torch.compiler.reset()
    denoiser = Denoiser(network, dtype=torch.bfloat16)
    augment = DiffAug(denoiser)
    return {EAGER: lambda: augment(images), AUTOTUNED: compiled_core(denoiser, images, "max-autotune-no-cudagraphs")}


def compiled_core(denoiser: Denoiser, images: Tensor, mode: str) -> Callable[[], Tensor]:
    """DiffAug's draw, and its core compiled as a whole for this batch size."""
    core = torch.compile(denoise, mode=mode, fullgraph=True, dynamic=False)
    network = denoiser.ready(images.device)
    steps = torch.tensor(denoiser.augment_timesteps, device=images.device)

    @torch.no_grad()
    def run() -> Tensor:
        index = torch.randint(len(steps), (len(images),), device=images.device)
        return core(network, images, steps[index], torch.randn_like(images), None)

    return run
