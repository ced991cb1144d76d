"""The methods for test time: the views of an image that each one needs, and its answer from them.

    images --Views.make--> views (V, B, C, H, W) --classifier--> log-probabilities --Mode.answer--> log-probabilities

``MODES`` is the table. A new method is a line there; if it needs views of its own, it also gets a function that makes
``Views``, in ``VIEWS`` of ``evaluate.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ...images import load_image
from ...score import Denoiser
from ...transforms.anytime import decided
from ...transforms.ensemble import denoised_views, log_mean_probabilities, number_of_noisy
from ...transforms.purify import Purify
from ...versions import versions
from ..adaptation import DDA
from .batches import Batch, draw_noise
from .digests import digest, digest_of_network
from .records import whole_file


class Answer(NamedTuple):
    """What a method says about a batch.

    Attributes:
        log_p: log-probabilities (B, K).
        calls: network calls of each image, (B,). None: as many as the views take.
    """

    log_p: Tensor
    calls: Tensor | None = None


@dataclass(frozen=True)
class Mode:
    """A method for test time.

    Attributes:
        views: the kind of the views that it needs; "" for none.
        answer: from the log-probabilities of the image itself (B, K) and of its views (V, B, K), and the timesteps of
            the views.
        description: for people.
    """

    views: str
    answer: Callable[[Tensor, Tensor, tuple[int, ...]], Answer]
    description: str


@dataclass(frozen=True)
class Views:
    """How images become views.

    Attributes:
        kind: as ``Mode.views``.
        name: of the timesteps in records, such as "network" or "paper".
        steps: the timesteps of the views.
        noise: how many draws of noise an image needs from ``batches``.
        calls: network calls an image, and as many backward passes if ``backward``.
        make: from a batch with its images on the device, and the folder of its part, to views (V, B, C, H, W) in
            [0, 1].
        calls_of: from the images as the classifier sees them and their views to the calls that each image took, (B,).
            None: all took ``calls``.
    """

    kind: str
    name: str
    steps: tuple[int, ...]
    noise: int
    calls: int
    make: Callable[[Batch, Path], Tensor]
    backward: bool = False
    calls_of: Callable[[Tensor, Tensor], Tensor] | None = None


def itself(raw: Tensor, views: Tensor, steps: tuple[int, ...]) -> Answer:
    return Answer(raw)


def mean_of_views(raw: Tensor, views: Tensor, steps: tuple[int, ...]) -> Answer:
    return Answer(log_mean_probabilities(views))


def with_itself(raw: Tensor, views: Tensor, steps: tuple[int, ...]) -> Answer:
    """SelfEnsemble's rule: the mean of the image's probabilities and its views'."""
    return Answer(log_mean_probabilities(torch.stack([raw, log_mean_probabilities(views)])))


def stop_when_decided(raw: Tensor, views: Tensor, steps: tuple[int, ...]) -> Answer:
    return Answer(*stop_early(views, steps))


#: The methods by name.
MODES = {
    "default": Mode("", itself, "the classifier alone"),
    "de": Mode("ensemble", mean_of_views, "DiffAugEnsemble"),
    "anytime": Mode("ensemble", stop_when_decided, "AnytimeEnsemble, the exact rule"),
    "purify": Mode("purify", mean_of_views, "the image that Purify makes"),
    "purify-se": Mode("purify", with_itself, "that and the image itself, by SelfEnsemble"),
    "dda": Mode("dda", mean_of_views, "the image that DDA makes"),
    "dda-se": Mode("dda", with_itself, "that and the image itself, by SelfEnsemble"),
}


def stop_early(
    log_p: Tensor, timesteps: Sequence[int], confidence: float | None = None, min_views: int = 2
) -> tuple[Tensor, Tensor]:
    """AnytimeEnsemble's log-probabilities (N, K) and network calls (N,), from all views' log-probabilities (V, N, K).

    Other arguments as AnytimeEnsemble's.
    """
    totals = log_p.exp().cumsum(dim=0)
    mean, calls = totals[0], torch.zeros(totals.shape[1], dtype=torch.int64, device=log_p.device)
    undecided = torch.ones_like(calls, dtype=torch.bool)
    made = 0
    for seen, (total, t) in enumerate(zip(totals, timesteps), start=1):
        made += t > 0
        done = undecided & decided(total, seen, len(totals) - seen, confidence, min_views)
        mean = torch.where(done[:, None], total / seen, mean)
        calls = torch.where(done, made, calls)
        undecided = undecided & ~done
    return mean.log(), calls


def ensemble_views(denoiser: Denoiser, name: str, steps: Sequence[int], crop: int | None = None) -> Views:
    """DiffAugEnsemble's views at these timesteps, of the centre of ``crop`` pixels if it is given."""
    steps = tuple(steps)
    number = number_of_noisy(steps)

    def make(batch: Batch, folder: Path) -> Tensor:
        noise = batch.noise[number].to(batch.images.device, non_blocking=True)
        images, noise = (centre(part, crop) for part in (batch.images, noise))
        return denoised_views(denoiser, images.float() / 255, steps, noise)

    return Views("ensemble", name, steps, number, number, make)


def purify_views(purify: Purify, name: str | None = None, crop: int | None = None) -> Views:
    """Purify's image. One that comes back bit for bit took no call.

    Args:
        name: of its timesteps in records. None: says the gate.
        crop: the classifier sees the centre of so many pixels, which alone is purified.
    """

    def make(batch: Batch, folder: Path) -> Tensor:
        return purify(centre(batch.images, crop).float() / 255)[None]

    def calls_of(images: Tensor, views: Tensor) -> Tensor:
        return (views[0] != images).flatten(1).any(dim=1).long()

    # There is one view, whose timestep depends on the image.
    return Views("purify", name or f"own, gate {purify.used_gate}", (0,), 0, 1, make, calls_of=calls_of)


def dda_views(
    dda: DDA, name: str, folder_name: str, seed: int, crop: int | None = None, shape: Sequence[int] | None = None
) -> Views:
    """DDA's image, of which the classifier sees the centre of ``crop`` pixels. Images are kept in the part's folder.

    Args:
        folder_name: begins the name of their folder.
        shape: of the images, (..., H, W). It matters for the number of calls of a network for any size.
    """
    steps = dda.timesteps if shape is None else dda.timesteps_for(shape)
    depends = [digest_of_network(dda.network), dda.timesteps, dda.guidance_scale, dda.downscale, dda.border, seed]
    own = f"{folder_name}-dda-{dda.timesteps[-1]}-{dda.guidance_scale:g}-{dda.downscale}"

    def make(batch: Batch, folder: Path) -> Tensor:
        return centre(adapted_images(dda, batch, folder / own, seed, digest(depends, versions())), crop)[None]

    # Its noise takes 50 draws of an image and is needed once, so it is no part of every batch.
    return Views("dda", name, steps[-1:], 0, len(steps) - 1, make, backward=True)


def centre(images: Tensor, crop: int | None) -> Tensor:
    """What the classifier sees, (..., H, W): the centre of ``crop`` pixels, or all."""
    return images if crop is None else F.center_crop(images, [crop, crop])


def adapted_images(dda: DDA, batch: Batch, folder: Path, seed: int, depends: str) -> Tensor:
    """DDA's images in [0, 1]: read from PNG files in ``folder``, or made and kept there.

    They cost a hundred network calls each, and serve every classifier and later run. A file is named by the image's
    place and by a digest of all that it is made from: the image's pixels, and ``depends``.
    """
    images, places = batch.images, batch.places
    names = (f"{place:05d}-{digest(image, images.device.type, depends)[:16]}" for image, place in zip(images, places))
    paths = [folder / f"{name}.png" for name in names]
    found = [read_picture(path) for path in paths]
    missing = [i for i, picture in enumerate(found) if picture is None]
    if missing:
        stride, (height, width) = dda.network.stride, images.shape[-2:]
        padded = (images.shape[1], -(-height // stride) * stride, -(-width // stride) * stride)
        noise = draw_noise([places[i] for i in missing], len(dda.timesteps) - 1, padded, seed)
        adapted = dda.adapt(images[missing].float() / 255, noise.to(images.device))
        for i, image in zip(missing, (adapted * 255).round().to(torch.uint8).cpu()):
            with whole_file(paths[i]) as temporary:
                F.to_pil_image(image).save(temporary, "PNG")
            found[i] = image
    return torch.stack([picture for picture in found if picture is not None]).to(images.device) / 255


def read_picture(path: Path) -> Tensor | None:
    """uint8 (3, H, W), or None if there is no file or it is damaged."""
    try:
        return F.pil_to_tensor(load_image(path))
    except OSError:
        return None
