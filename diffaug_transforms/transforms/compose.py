"""The named views of an image that one training step sees, and the paper's recipes.

              per-sample transform (DataLoader workers)         per-batch transform (device)
image ─┬─clean────▶ "clean" ─▶ "augmix1", "augmix2", ... ─────▶ and "deepaugment", from "clean"
       └─original─▶ "original" ───────────────────────────────▶ "diffaug", in place of "original"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..arguments import check_callable, check_instance, shown
from ..deprecated import renamed_attribute
from ..images import batch_shape, to_pixels
from ..score import Denoiser, ScoreNetwork
from .augmix import AugMix
from .deepaugment import DeepAugment, DeepAugmentUnion, as_deepaugments
from .diffaug import DiffAug
from .views_loss import ViewsLoss

Transform = Callable[[Any], Any]
#: A DiffAug, or the network of one with its defaults.
DiffAugLike = DiffAug | str | Path | ScoreNetwork | Denoiser | None
#: The paper's training recipes (Sastry et al., NeurIPS 2024, section 4.1).
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


def compose_with(
    *augmentations: Transform,
    diffaug: DiffAugLike = None,
    clean: Transform | None = None,
    original: Transform | None = None,
) -> Views:
    """Parallel views of an image: the clean one, one per augmentation, and DiffAug's.

    The augmentations start from the clean view. DiffAug starts from the original image, not from another augmentation's
    output.

    Args:
        augmentations: ``AugMix()``, ``DeepAugment()``, any v2 transform. A view's name is the class of its augmentation
            in lower case, with a number if a class comes twice. A ``v2.Compose`` has the name of its last transform.
        diffaug: makes the view "diffaug": a DiffAug, or the network of one with its defaults: a name, a path, a
            ScoreNetwork or a Denoiser. None: there is no such view.
        clean: makes the clean view, such as a random crop and a flip. None: the image itself.
        original: makes the image that DiffAug starts from, such as Resize(256) and CenterCrop(224). None: the image
            itself.

    Returns:
        ``Views``. Its two halves may run in different places: ``per_sample`` in DataLoader workers, ``per_batch`` on
        the device.

    Raises:
        TypeError: an augmentation is not callable or is a DiffAug, or an argument is not as above.

    Example:
        >>> views = compose_with(AugMix(), AugMix(), diffaug=DiffAug("cifar10"))
        >>> list(views(torch.rand(4, 3, 32, 32)))
        ['clean', 'augmix1', 'augmix2', 'diffaug']
    """
    for transform in augmentations:
        if not callable(transform) or isinstance(transform, type):
            raise TypeError(f"augmentations must be transforms, such as AugMix(). Got {shown(transform)}")
        if isinstance(transform, DiffAug):
            raise TypeError(f"DiffAug must not be among the augmentations: pass it as diffaug=. Got {transform!r}")
    for name, value in (("clean", clean), ("original", original)):
        check_callable(name, value, "a transform")
    diffaug = as_diffaug(diffaug)
    named = dict(zip(view_names(augmentations), augmentations))
    deepaugments = {name: transform for name, transform in named.items() if isinstance(transform, DeepAugment)}
    others = {name: transform for name, transform in named.items() if name not in deepaugments}
    starts_from_clean = diffaug is None or (clean is None and original is None)
    identity = v2.Identity()
    return Views(
        PerSampleTransform(clean or identity, others, None if starts_from_clean else original or identity),
        PerBatchTransform(deepaugments, diffaug),
    )


def as_diffaug(diffaug: DiffAugLike) -> DiffAug | None:
    """A DiffAug as it is; of a network one with its defaults."""
    if diffaug is None or isinstance(diffaug, DiffAug):
        return diffaug
    check_instance("diffaug", diffaug, (DiffAug, str, Path, ScoreNetwork, Denoiser), ", or None")
    return DiffAug(diffaug)


def view_names(transforms: Sequence[Transform]) -> list[str]:
    """Class names in lower case, numbered from 1 if they repeat."""
    classes = []
    for transform in transforms:
        while isinstance(transform, v2.Compose):
            transform = transform.transforms[-1]
        classes.append(type(transform).__name__.lower())
    numbers = [classes[: i + 1].count(name) for i, name in enumerate(classes)]
    return [name if classes.count(name) == 1 else f"{name}{number}" for name, number in zip(classes, numbers)]


class PerSampleTransform(nn.Module):
    """The views that need no network, from one image or a batch. Picklable, for DataLoader workers."""

    def __init__(self, clean: Transform, augmentations: Mapping[str, Transform], original: Transform | None) -> None:
        super().__init__()
        self.clean = clean
        self.augmentations = dict(augmentations)
        self.original = original

    def forward(self, image: Any) -> dict[str, Tensor]:
        """Views by name, and "original" if DiffAug does not start from the clean view."""
        if isinstance(image, np.ndarray):
            image = to_pixels(image) if image.ndim > 3 else to_pixels(image)[0]
        elif not isinstance(image, PIL.Image.Image):
            batch_shape(image)
        clean = self.clean(image)
        views = {"clean": clean, **{name: augment(clean) for name, augment in self.augmentations.items()}}
        if self.original is not None:
            views["original"] = self.original(image)
        return {name: v2.functional.to_image(view) for name, view in views.items()}


class PerBatchTransform(nn.Module):
    """Adds the views that networks make, DeepAugment's and DiffAug's, to a batch on the device."""

    def __init__(self, augmentations: Mapping[str, DeepAugment], diffaug: DiffAug | None) -> None:
        super().__init__()
        self.augmentations = nn.ModuleDict(augmentations)
        self.diffaug = diffaug

    def forward(self, views: Mapping[str, Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """All views by name, as ``tv_tensors.Image``. A view "diffaug" that was prepared before stays as it is.

        ``views`` are a batch of ``PerSampleTransform``'s. ``labels``, int64 (B,), are for DiffAug(conditional=True).
        """
        if not isinstance(views, Mapping) or "clean" not in views:
            raise ValueError(f"views must be a dict of images that holds 'clean'. Got {shown(views)}")
        for name, view in views.items():
            check_instance(f"view {name!r}", view, Tensor)
        # As tv_tensors.Image, all views are images to the v2 transforms that follow, such as MixUp and CutMix.
        result = {name: tv_tensors.Image(view) for name, view in views.items()}
        start = result.pop("original", result["clean"])
        prepared = result.pop("diffaug", None)
        for name, augment in self.augmentations.items():
            result[name] = augment(result["clean"])
        if prepared is not None:
            result["diffaug"] = prepared
        elif self.diffaug is not None:
            conditional = self.diffaug.conditional and labels is not None
            result["diffaug"] = self.diffaug(start, labels)[0] if conditional else self.diffaug(start)
        return result


class Views(nn.Module):
    """The views of a batch by name: what ``compose_with`` returns.

    Attributes:
        per_sample: image or batch -> views that need no network. For DataLoader workers.
        per_batch: a batch of those views -> all views. For the device.
        kinds: name -> "clean", "augmented", "deepaugment" or "diffaug". ``ViewsLoss(kinds=views.kinds)`` takes it.
    """

    on_batch = renamed_attribute("Views.on_batch", "per_batch")

    def __init__(self, per_sample: PerSampleTransform, per_batch: PerBatchTransform) -> None:
        super().__init__()
        self.per_sample = per_sample
        self.per_batch = per_batch
        augmented = dict.fromkeys(per_sample.augmentations, "augmented")
        deepaugment = dict.fromkeys(per_batch.augmentations, "deepaugment")
        self.kinds = {"clean": "clean", **augmented, **deepaugment, "diffaug": "diffaug"}

    def forward(self, images: Any, labels: Tensor | None = None) -> dict[str, Tensor]:
        """All views by name, as ``tv_tensors.Image``.

        Args:
            images: (B, C, H, W), floating point in [0, 1] or uint8.
            labels: int64 (B,), for ``DiffAug(conditional=True)``.
        """
        return self.per_batch(self.per_sample(images), labels)


def recipe(
    name: str,
    *,
    diffaug: DiffAugLike = None,
    deepaugment: DeepAugment | Sequence[DeepAugment] | None = None,
    clean: Transform | None = None,
    original: Transform | None = None,
) -> tuple[Views, ViewsLoss]:
    """The views and the loss of one of the paper's recipes (Sastry et al., NeurIPS 2024, section 4.1).

    - augmix: two AugMix views (width 3, depth 1 to 3, severity 1), compared with the clean view in the JSD term.
    - deepaugment: a view with a cross-entropy of its own, for each network.
    - deepaugment+augmix: each image of the clean view is drawn from the union of the originals and DeepAugment's
      images, and AugMix starts from it. One network distorts half of the images, two networks a third each.
    - diffaug: a view of the original, with a cross-entropy of its own.

    Args:
        name: one of ``RECIPES``; its parts may stand in any order.
        diffaug: the transform of a recipe with that name, or a network as for ``compose_with``. None:
            ``DiffAug("cifar10")``.
        deepaugment: one transform or several, for recipes with that name. None: ``DeepAugment("noise2net")``. The
            paper's are ``[DeepAugment("edsr"), DeepAugment("cae", weights=PATH)]``.
        clean, original: as for ``compose_with``.

    Raises:
        ValueError: ``name`` is not in ``RECIPES``. TypeError: an argument is not as above.

    Example:
        >>> views, loss = recipe("augmix+diffaug", diffaug=DiffAug("cifar10"))
        >>> list(views(torch.rand(4, 3, 32, 32)))
        ['clean', 'augmix1', 'augmix2', 'diffaug']
    """
    parts = sorted(name.split("+")) if isinstance(name, str) else []
    if parts not in [sorted(known.split("+")) for known in RECIPES]:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}. Got {shown(name)}")
    deepaugments = as_deepaugments(deepaugment)
    diffaug = as_diffaug(diffaug)
    for word, value in (("clean", clean), ("original", original)):
        check_callable(word, value, "a transform")
    augmentations: list[v2.Transform] = [AugMix(), AugMix()] if "augmix" in parts else []
    if "deepaugment" in parts:
        if "augmix" in parts:
            union = DeepAugmentUnion(deepaugments)
            clean = union if clean is None else v2.Compose([clean, union])
        else:
            augmentations += deepaugments
    if "diffaug" not in parts:
        diffaug = None
    elif diffaug is None:
        diffaug = DiffAug("cifar10")
    views = compose_with(*augmentations, diffaug=diffaug, clean=clean, original=original)
    return views, ViewsLoss(kinds=views.kinds)
