"""The 15 corruptions beside the scripts of hendrycks/robustness, for CIFAR-10-C, Tiny ImageNet-C and ImageNet-C."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffaug_transforms.images import sample_images
from diffaug_transforms.robustness import CORRUPTIONS
from diffaug_transforms.robustness.corruptions.constants import CONSTANTS

SOURCE = "hendrycks/robustness"
FILE = Path(__file__).parent.parent / "reference" / "corruptions.safetensors"
TOLERANCE = 0
UNIT = "of 256 grey levels"
FORMULAS = {
    "cifar10-c": "the 15 corruptions with CIFAR-10-C's constants, severities 2 and 5",
    "tiny-imagenet-c": "the 15 corruptions with Tiny ImageNet-C's constants, severities 2 and 5",
    "imagenet-c": "the 15 corruptions with ImageNet-C's constants, severities 2 and 5",
}
NEEDS = ("cv2", "skimage")
SEED = 5
SEVERITIES = (2, 5)
#: Enlargement of the 32-pixel sample image, and every how many pixels are kept.
SIZES = {
    "cifar10-c": SimpleNamespace(enlarge=1, stride=1),
    "tiny-imagenet-c": SimpleNamespace(enlarge=2, stride=3),
    "imagenet-c": SimpleNamespace(enlarge=7, stride=6),
}


def image(corruption_set: str) -> npt.NDArray[np.uint8]:
    """A sample image, uint8 (H, W, 3). Enlarged, it is made of blocks."""
    pixels = np.asarray(list(sample_images().values())[3])
    side = SIZES[corruption_set].enlarge
    return np.kron(pixels, np.ones((side, side, 1), np.uint8))


def kept(result: npt.NDArray[np.generic], corruption_set: str) -> Tensor:
    """What is compared: some pixels, truncated to uint8 as the scripts do."""
    stride = SIZES[corruption_set].stride
    return torch.from_numpy(np.uint8(result)[::stride, ::stride].copy())


def cases() -> Iterator[tuple[str, str, int]]:
    yield from ((name, corruption, s) for name in SIZES for corruption in CORRUPTIONS for s in SEVERITIES)


def comparisons() -> Iterator[tuple[str, Tensor, Tensor]]:
    """(case, ours, the source's), in grey levels."""
    from diffaug_transforms.robustness.corruptions import functions

    expected = load_file(FILE)
    for name, corruption, severity in cases():
        constants = CONSTANTS[name][corruption][severity - 1]
        constants = constants if isinstance(constants, tuple) else (constants,)
        result = getattr(functions, corruption)(image(name), np.random.default_rng(SEED), *constants)
        case = f"{name}, {corruption}, severity {severity}"
        yield case, kept(result, name), expected[case]
