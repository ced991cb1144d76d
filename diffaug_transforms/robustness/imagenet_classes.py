"""ImageNet's class indices: of wnids, of the published subsets of 200 classes, of ImageNet-D's categories."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from ..images import ASSETS

CATEGORIES = ASSETS / "imagenet_d.json"
SUBSETS = {"imagenet-r": "imagenet_r_synsets.txt", "imagenet-a": "imagenet_a_synsets.txt"}


@cache
def folder_classes(name: str) -> dict[str, tuple[int, ...]]:
    """The right classes, in 0...999, of each folder that a test set may hold.

    Folders are wnids such as ``n01440764``; of ImageNet-D categories such as ``chair``, which three classes match.
    Sources: the lists that timm ships, and for ImageNet-D ``preprocessing/imgnet_d2imgnet_id.txt`` of the official
    code (github.com/chenshuang-zhang/imagenet_d; Zhang et al., CVPR 2024, arXiv 2403.18775).

    Raises:
        ImportError: timm, which the extra ``train`` installs, is missing.
    """
    if name == "imagenet-d":
        return {category: tuple(indices) for category, indices in json.loads(CATEGORIES.read_text()).items()}
    classes: dict[str, tuple[int, ...]] = {wnid: (k,) for k, wnid in enumerate(_read_wnids("imagenet_synsets.txt"))}
    return {wnid: classes[wnid] for wnid in _read_wnids(SUBSETS[name])} if name in SUBSETS else classes


def candidate_classes(name: str) -> tuple[int, ...] | None:
    """The only classes that a prediction is chosen from; None: all 1000."""
    if name not in SUBSETS:
        return None
    return tuple(sorted(index for (index,) in folder_classes(name).values()))


def _read_wnids(file: str) -> list[str]:
    try:
        folder = files("timm.data") / "_info"
    except ImportError as error:
        raise ImportError(
            f'ImageNet\'s classes need timm: pip install "diffaug-transforms[train]" ({error})'
        ) from error
    return (folder / file).read_text().split()
