"""ResNet-50 at 224 pixels: images a second in training and in inference, as examples/train_classifier.py runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from diffaug_transforms.classifiers import build_model

from ..harness.records import Record
from .adm256 import SIZE, TINY_SIZE
from .settings import Settings
from .timing import speed_records, time_methods

TRAINING, INFERENCE = "ResNet-50, training", "ResNet-50, inference"


def measure(settings: Settings) -> Iterator[Record]:
    size = TINY_SIZE if settings.tiny else SIZE
    model = build_model("cifar_resnet-8" if settings.tiny else "resnet50", 1000)
    model = model.to(settings.device).to(memory_format=torch.channels_last)
    for batch in settings.choose((64, 256), (2,)):
        images = torch.rand(batch, 3, size, size, device=settings.device)
        images = images.contiguous(memory_format=torch.channels_last)
        fields = {"batch_size": batch, "size": size}
        methods = {TRAINING: training_step(model, images), INFERENCE: inference(model, images)}
        taken, failures = time_methods(settings, methods, **fields)
        yield from failures
        yield from speed_records(settings, taken, batch, **fields)


def training_step(model: nn.Module, images: Tensor) -> Callable[[], None]:
    """Forward under bfloat16 autocast, backward, SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)

    def run() -> None:
        model.train()
        with torch.autocast(images.device.type, torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def inference(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    @torch.inference_mode()
    def run() -> Tensor:
        model.eval()
        with torch.autocast(images.device.type, torch.bfloat16):
            return model(images)

    return run
