"""The paper's training recipes by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchvision.transforms import v2

from .augmix import AugMix
from .compose import Views, ViewsLoss, compose_with
from .deepaugment import DeepAugment
from .diffaug import DiffAug

RECIPES = (
    "baseline",
    "diffaug",
    "augmix",
    "augmix+diffaug",
    "deepaugment",
    "deepaugment+diffaug",
    "deepaugment+augmix",
    "deepaugment+augmix+diffaug",
)


def recipe(
    name: str,
    *,
    diffaug: DiffAug | None = None,
    deepaugment: DeepAugment | None = None,
    clean: Callable[[Any], Any] | None = None,
    original: Callable[[Any], Any] | None = None,
) -> tuple[Views, ViewsLoss]:
    """The views and the loss of one of the paper's recipes (Sastry et al., NeurIPS 2024, section 4.1).

    augmix: two views of AugMix (width 3, depth 1 to 3, severity 1) in the JSD term. deepaugment: a view of its own
    with a cross-entropy. deepaugment+augmix: the clean view is DeepAugment's for half of the images, as if drawn from
    the union of the two sets, and AugMix starts from it. diffaug: always from the original, with a cross-entropy.

    Args:
        name: one of ``RECIPES``.
        diffaug, deepaugment: replace ``DiffAug("cifar10")`` and ``DeepAugment("noise2net")`` where the name has them.
        clean, original: as ``compose_with``'s.

    Raises:
        ValueError: the name is no recipe's.

    Example:
        >>> views, loss = recipe("augmix+diffaug", diffaug=DiffAug("cifar10"))
        >>> list(views(torch.rand(4, 3, 32, 32)))
        ['clean', 'augmix1', 'augmix2', 'diffaug']
    """
    if name not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}. Got {name!r}")
    parts = name.split("+")
    augmentations: list[v2.Transform] = [AugMix(), AugMix()] if "augmix" in parts else []
    if "deepaugment" in parts:
        deepaugment = deepaugment or DeepAugment()
        if "augmix" in parts:
            union = v2.RandomApply([deepaugment], p=0.5)
            clean = union if clean is None else v2.Compose([clean, union])
        else:
            augmentations.append(deepaugment)
    if "diffaug" not in parts:
        diffaug = None
    elif diffaug is None:
        diffaug = DiffAug("cifar10")
    return compose_with(*augmentations, diffaug=diffaug, clean=clean, original=original), ViewsLoss()
