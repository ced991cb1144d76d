"""Corruptions of a data set's images, made when they are read."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import PIL.Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from ..arguments import as_integer, check_callable
from .corruptions import check_corruption, corrupt
from .datasets import Item, check_dataset

#: The sets whose images the official scripts save as JPEG.
SAVED_AS_JPEG = ("tiny-imagenet-c", "imagenet-c")


class Corrupted(Dataset[Item]):
    """A data set whose images are corrupted by ``corrupt`` when they are read.

    The draws for an image depend on ``seed`` and on the image's index in ``dataset``. So corrupt the full set first and
    take a ``Subset`` of the result: an image is then the same in every subset. With the constants of ``imagenet-c`` and
    ``tiny-imagenet-c`` the image is also coded as JPEG of quality 85, as the official scripts save it.

    Args:
        dataset: items are (uint8 image (3, H, W), target). Use CIFAR-10 for ``cifar10-c``, Tiny ImageNet for
            ``tiny-imagenet-c``, and ImageNet at 224 pixels for ``imagenet-c``.
        corruption, severity, corruption_set: as for ``corrupt``.
        seed: an int of at least 0.
        transform: from the corrupted image, a PIL image, to the PIL image that is returned. None: as it is. The paper
            evaluates ImageNet-C with Resize(256) and CenterCrop(224) after the corruption.

    Raises:
        ValueError, TypeError: an argument is not as above. Reading an item raises the errors of ``corrupt``.

    Example:
        >>> images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
        >>> clean = torch.utils.data.TensorDataset(images, torch.tensor([3, 8]))
        >>> image, target = Corrupted(clean, "fog", 5, corruption_set="cifar10-c")[1]
        >>> image.shape, int(target)
        (torch.Size([3, 32, 32]), 8)
    """

    def __init__(
        self,
        dataset: Dataset[Item],
        corruption: str,
        severity: int,
        *,
        corruption_set: str,
        seed: int = 0,
        transform: Callable[[PIL.Image.Image], PIL.Image.Image] | None = None,
    ) -> None:
        check_corruption(corruption, severity, corruption_set)
        check_dataset(dataset)
        check_callable("transform", transform, "a transform of PIL images")
        self.dataset = dataset
        self.corruption = corruption
        self.severity = severity
        self.corruption_set = corruption_set
        self.seed = as_integer("seed", seed, 0)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Item:
        index = range(len(self))[index]
        image, target = self.dataset[index]
        options: dict[str, Any] = {"corruption_set": self.corruption_set, "seed": self.seed, "first": index}
        image = corrupt(image, self.corruption, self.severity, **options)
        image = _code_as_jpeg(image) if self.corruption_set in SAVED_AS_JPEG else image
        if self.transform is not None:
            image = F.pil_to_tensor(self.transform(F.to_pil_image(image)))
        return image, target


def _code_as_jpeg(image: Tensor) -> Tensor:
    """As the official script saves ImageNet-C."""
    file = io.BytesIO()
    F.to_pil_image(image).save(file, "JPEG", quality=85)
    return F.pil_to_tensor(PIL.Image.open(file))
