"""One augmented copy of an image: its seeds, its draw, and its file."""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import PIL.Image
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ..arguments import as_integer, check_callable, check_instance
from ..images import load_image
from ..transforms import DeepAugment, DiffAug

#: Applied to each RGB picture before it is augmented, such as a Resize.
Prepare = Callable[[PIL.Image.Image], PIL.Image.Image] | None


class Seeds(NamedTuple):
    """The seed of a copy's draw, and the seed of its corrupted network (used by DeepAugment only)."""

    draw: int
    network: int


def check_options(augment: Any, copies: Any, seed: Any, batch_size: Any, prepare: Any) -> None:
    """ValueError or TypeError unless these are as ``augment_folder`` and ``augment_dataset`` take them."""
    check_instance("augment", augment, (DiffAug, DeepAugment))
    as_integer("copies", copies, 1)
    as_integer("seed", seed, 0)
    as_integer("batch_size", batch_size, 1)
    check_callable("prepare", prepare, "a transform of PIL images")


def copy_seed(seed: int, image: str, copy: int) -> tuple[int, float]:
    """The seed (56 bits) of one copy's draw, and an independent uniform number in [0, 1).

    ``seed`` is the whole run's, ``image`` the path relative to the source folder, with forward slashes.
    """
    digest = hashlib.sha256(f"{seed}/{image}/{copy}".encode()).digest()
    return int.from_bytes(digest[:7], "big"), int.from_bytes(digest[7:13], "big") / 2**48


def read_image(file: str | bytes, name: str, prepare: Prepare) -> Tensor | str:
    """An upright image, uint8 (3, H, W), or a line with its name that says why it cannot be read."""
    try:
        image = load_image(file, name)
    except OSError as error:
        return f"skipped: {error}"
    return F.pil_to_tensor(prepare(image) if prepare is not None else image)


def augment_images(
    augment: DiffAug | DeepAugment,
    images: Sequence[Tensor],
    seeds: Sequence[Seeds],
    batch_size: int,
    device: torch.device | str,
) -> Iterator[tuple[list[int], Tensor]]:
    """Augment images, uint8 (3, H, W) of any sizes, in batches of one size. There is one pair of seeds per image.

    Yields:
        The indices of a batch's images, and the augmented images: uint8 (B, 3, H, W) on the CPU.
    """
    same_size: dict[torch.Size, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        same_size[image.shape].append(index)
    for indices in same_size.values():
        for start in range(0, len(indices), batch_size):
            batch = indices[start : start + batch_size]
            yield batch, _augment_batch(augment, [images[i] for i in batch], [seeds[i] for i in batch], device)


def _augment_batch(
    augment: DiffAug | DeepAugment, images: list[Tensor], seeds: list[Seeds], device: torch.device | str
) -> Tensor:
    params = []
    generator = augment.generator
    try:
        for image, seed in zip(images, seeds):
            augment.generator = torch.Generator().manual_seed(seed.draw)
            params.append(augment.make_params([image]))
            if "network_seed" in params[-1]:
                params[-1]["network_seed"] = torch.tensor([seed.network])
    finally:
        augment.generator = generator
    together = {name: torch.cat([draw[name] for draw in params]).to(device) for name in params[0]}
    return augment.transform(torch.stack(images).to(device), together).cpu()


def encode_image(image: Tensor, file_format: str) -> bytes:
    """The bytes of a file. ``file_format`` is Pillow's name, such as JPEG."""
    file = io.BytesIO()
    F.to_pil_image(image).save(file, file_format, **({"quality": 95} if file_format in ("JPEG", "WEBP") else {}))
    return file.getvalue()
