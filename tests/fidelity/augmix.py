"""AugMix's operations, mixture and divergence beside google-research/augmix, whose operations are PIL's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import AugMix
from diffaug_transforms.images import sample_images
from diffaug_transforms.transforms.augmix import OPERATIONS
from diffaug_transforms.transforms.views_loss import jensen_shannon_divergence

from .toys import seeded

SOURCE = "google-research/augmix"
FILE = Path(__file__).parent.parent / "reference" / "augmix.safetensors"
#: In grey levels: positions are in float32, and Pillow truncates.
TOLERANCE = 1
UNIT = "of 256 grey levels"
FORMULAS = {
    **dict.fromkeys(OPERATIONS, "AugMix's nine operations, which are Pillow's; levels 0.9 and 4.3, both signs"),
    "mixture": "(1 - m) x + m Σ wᵢ chainᵢ(x), chains of 1 to 3 operations (Hendrycks et al. 2020, alg. 1)",
    "10^5 times the divergence": "JSD = mean of KL(pᵢ ‖ clip(mean p, 1e-7, 1)), three views; times 10⁵",
}
LEVELS = (0.9, 4.3)
SIGNS = (1, -1)
WEIGHTS, STRENGTH = (0.2, 0.5, 0.3), 0.7
#: (operation, level, sign) of each chain.
CHAINS = (
    (("rotate", 0.7, 1),),
    (("posterize", 3.0, 1), ("shear_x", 2.0, -1), ("equalize", 1.0, 1)),
    (("translate_y", 3.5, 1), ("solarize", 4.0, 1)),
)


def image() -> Any:
    return list(sample_images().values())[5]


def logits() -> Tensor:
    """(3 views, 6 images, 10 classes). Some classes have no probability."""
    return 20 * seeded(3, 6, 10, seed=3)


def own_sign(name: str, sign: int) -> int:
    """The source moves images the other way. Both signs are equally likely."""
    return -sign if name.startswith("translate") else sign


def mixture() -> Tensor:
    """Three chains of at most three operations, by a draw that is given."""
    names, size = list(OPERATIONS), (1, 3, 3)
    draw = {"strength": torch.tensor([STRENGTH]), "weights": torch.tensor([WEIGHTS])}
    draw |= {"operations": torch.full(size, -1), "levels": torch.ones(size), "signs": torch.ones(size).long()}
    for i, chain in enumerate(CHAINS):
        for j, (name, level, sign) in enumerate(chain):
            draw["operations"][0, i, j] = names.index(name)
            draw["levels"][0, i, j], draw["signs"][0, i, j] = level, own_sign(name, sign)
    return AugMix().transform(F.to_dtype(F.to_image(image()), torch.float32, scale=True), draw)


def comparisons() -> Iterator[tuple[str, Tensor, Tensor]]:
    """(case, ours, the source's), in grey levels but for the last."""
    expected, pixels = load_file(FILE), F.pil_to_tensor(image())
    for name, operation in OPERATIONS.items():
        for level in LEVELS:
            for sign in SIGNS:
                case = f"{name}, level {level}, sign {sign}"
                yield case, operation(pixels, level, own_sign(name, sign))[:, ::2, ::2].contiguous(), expected[case]
    yield "mixture", 255 * mixture()[:, ::2, ::2], 255 * expected["mixture"]
    # So that a difference of 1e-5 would be above the tolerance.
    yield "10^5 times the divergence", 1e5 * jensen_shannon_divergence(logits()), 1e5 * expected["divergence"]
