"""Noisy images for guidance classifiers: crop, diffuse and classify them, and measure the accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from accelerate import Accelerator
from image_data import LabelledImages
from sample_views import Batches, EvaluationImages, load_test_batches
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from diffaug_transforms.guidance import DenoiseAugmentedClassifier, NoisyClassifier
from diffaug_transforms.score import NoiseSchedule
from diffaug_transforms.score.functional import diffuse, to_signed

Classifier: TypeAlias = NoisyClassifier | DenoiseAugmentedClassifier
#: Seed of the draws for testing. It does not depend on the seed for training.
TEST_SEED = 0
#: Images up to this side are trained on whole, see ``geometry``.
SMALL = 64


def geometry(size: int) -> tuple[v2.Transform, v2.Transform]:
    """The view for training, and the central crop for testing (guided-diffusion, image_datasets.py).

    Up to ``SMALL`` pixels, training uses the central crop and a flip. Above, it uses a random crop of 0.8 to 1 times
    the image's side and a flip.
    """
    central = v2.Compose([v2.Resize(size, antialias=True), v2.CenterCrop(size)])
    if size <= SMALL:
        return v2.Compose([central, v2.RandomHorizontalFlip()]), central
    resize = v2.RandomResize(size, size * 5 // 4 + 1, antialias=True)
    return v2.Compose([resize, v2.RandomCrop(size), v2.RandomHorizontalFlip()]), central


def training_layout(device: torch.device) -> torch.memory_format:
    """Channels-last, except on a CPU: there the backward pass of channels-last group norms is slow."""
    return torch.contiguous_format if device.type == "cpu" else torch.channels_last


def one_view(transform: Callable[[Any], Any], image: Any) -> dict[str, Tensor]:
    return {"image": F.pil_to_tensor(transform(image))}


def decode_all(images: LabelledImages, size: int, workers: int = 0) -> Tensor:
    """The central crops of all images, uint8 (N, 3, size, size)."""
    _, central = geometry(size)
    return torch.cat([batch for batch, _, _ in load_test_batches(EvaluationImages(images, central), 250, workers)])


def batches_in_memory(
    pixels: Tensor, labels: Sequence[int], batches: Batches, seed: int
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """What a loader of ``one_view`` gives, for small images that are decoded already, on their device.

    The images are those of the loader, in its order. The flips are other draws: they depend on the seed, the step and
    the process.

    Args:
        pixels: uint8 (N, C, H, W), all images of the training.
        labels: theirs.
    """
    targets = torch.tensor(labels, device=pixels.device)
    for step, keys in enumerate(batches, batches.start + 1):
        index = torch.tensor([i for _, i in keys]).to(pixels.device, non_blocking=True)
        generator = torch.Generator(pixels.device).manual_seed(hash((seed, step, batches.rank, 1)) % 2**63)
        mirrored = torch.rand(len(keys), generator=generator, device=pixels.device) < 0.5
        chosen = pixels[index]
        yield {"image": torch.where(mirrored[:, None, None, None], chosen.flip(3), chosen)}, targets[index]


def diffuse_uniformly(images: Tensor, schedule: NoiseSchedule, seeds: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Diffuse images to uniform random timesteps in 0...T-1. The seeds fix the noise and the timesteps.

    Args:
        images: (B, C, H, W) in [0, 1].

    Returns:
        The noisy images (B, C, H, W), and the timesteps (B,).
    """
    generator = torch.Generator(images.device).manual_seed(hash(seeds) % 2**63)
    options: dict[str, Any] = {"generator": generator, "device": images.device}
    timesteps = torch.randint(schedule.num_timesteps, (len(images),), **options)
    return diffuse(to_signed(images), timesteps, torch.randn(images.shape, **options), schedule), timesteps


def classify(
    classifier: Classifier, encoder: Callable[..., Tensor], x_t: Tensor, timesteps: Tensor, accelerator: Accelerator
) -> Tensor:
    """The classifier's logits, from ``encoder`` in place of its own. Autocast and DDP do not see the score network."""
    x_t = x_t.contiguous(memory_format=training_layout(x_t.device))
    denoised = [classifier.denoise(x_t, timesteps)] if isinstance(classifier, DenoiseAugmentedClassifier) else []
    with accelerator.autocast():
        return encoder(x_t, timesteps, *denoised).float()


def percent_right(right: Tensor, timesteps: Tensor, num_timesteps: int) -> dict[str, Tensor]:
    """Accuracy in percent, over all images and by quarter of the timesteps. Quarter q0 is the least noisy.

    guided-diffusion logs the same quarters. A quarter without images has NaN. Nothing is read from the device.
    """
    quarters, percent = 4 * timesteps // num_timesteps, 100 * right.float()
    inside = [quarters == q for q in range(4)]
    parts = {f"accuracy_q{q}": (percent * part).sum() / part.sum() for q, part in enumerate(inside)}
    return {"accuracy": percent.mean(), **parts}


class NoisyBatch(NamedTuple):
    """Test images: noisy ones x_t, their timesteps, whether each could be read, and their places in the test set."""

    x_t: Tensor
    timesteps: Tensor
    readable: Tensor
    places: Tensor


def noisy_batches(
    images: LabelledImages,
    size: int,
    schedule: NoiseSchedule,
    accelerator: Accelerator,
    workers: int = 0,
    skipped: Path | None = None,
) -> Iterator[NoisyBatch]:
    """This process's share of the test images, each diffused to one timestep, x_t and timesteps on its device.

    The draws for image i depend only on i, not on batches, processes, the device or the form of the classifier.

    Args:
        size: side of the classifier's images in pixels.
        workers: processes that read the images.
        skipped: as ``EvaluationImages``'s.
    """
    _, central = geometry(size)
    device, schedule = accelerator.device, schedule.to("cpu")
    share = EvaluationImages(images, central, accelerator.process_index, accelerator.num_processes, skipped)
    for batch, labels, index in load_test_batches(share, 64 if size > SMALL else 250, workers):
        draws = [
            diffuse_uniformly(image[None] / 255, schedule, (TEST_SEED, i)) for image, i in zip(batch, index.tolist())
        ]
        x_t, timesteps = (torch.cat(part).to(device) for part in zip(*draws))
        yield NoisyBatch(x_t, timesteps, labels >= 0, index)


@torch.no_grad()
def accuracy_on_noise(
    classifier: Classifier,
    images: LabelledImages,
    schedule: NoiseSchedule,
    accelerator: Accelerator,
    batches: Iterable[NoisyBatch],
) -> dict[str, float]:
    """``percent_right`` of test images that are each diffused to one timestep, under names "test_...".

    Each process takes its share of the images. A quarter without images is left out.

    Args:
        batches: of ``noisy_batches``. Images that cannot be read do not count.
    """
    device = accelerator.device
    predicted, timesteps, readable = torch.zeros(3, len(images), dtype=torch.int64)
    classifier.eval()
    for batch in batches:
        logits = classify(classifier, classifier.encoder, batch.x_t, batch.timesteps, accelerator)
        predicted[batch.places], timesteps[batch.places] = logits.argmax(dim=1).cpu(), batch.timesteps.cpu()
        readable[batch.places] = batch.readable.long()
    classifier.train()
    predicted, timesteps, readable = (
        accelerator.reduce(part.to(device)).cpu() for part in (predicted, timesteps, readable)
    )
    chosen = readable.bool()
    right = (predicted == torch.tensor(images.labels))[chosen]
    found = percent_right(right, timesteps[chosen], schedule.num_timesteps)
    return {f"test_{name}": float(value) for name, value in found.items() if not value.isnan()}
