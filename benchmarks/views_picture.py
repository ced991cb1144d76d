"""docs/views.png: the views of the package's sample images that the recipe deepaugment+augmix+diffaug's parts give.

python benchmarks/views_picture.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import AugMix, DeepAugment, DiffAug, compose_with
from diffaug_transforms.figures import draw_grid, sample_images

TARGET = Path(__file__).parent.parent / "docs" / "views.png"


def main() -> None:
    torch.manual_seed(0)
    crop = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()])
    views = compose_with(AugMix(), AugMix(), DeepAugment(), diffaug=DiffAug("cifar10"), clean=crop)
    images = sample_images()
    rows, columns = [], []
    for image in images.values():
        batch = views.on_batch({name: view[None] for name, view in views.per_sample(image).items()})
        columns = ["image", *batch]
        cells = [F.to_image(image), *(view[0] for view in batch.values())]
        rows.append(torch.stack([cell.as_subclass(Tensor).float() / 255 for cell in cells]))
    draw_grid(rows, columns, list(images)).save(TARGET)
    print(f"Wrote {TARGET}")


if __name__ == "__main__":
    main()
