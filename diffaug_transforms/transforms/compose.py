"""compose_with: the named views of an image that one training step sees, and the loss over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from .deepaugment import DeepAugment
from .diffaug import DiffAug


def compose_with(
    *augmentations: Callable[[Any], Any],
    diffaug: DiffAug | None = None,
    clean: Callable[[Any], Any] | None = None,
    original: Callable[[Any], Any] | None = None,
) -> Views:
    """Parallel views of an image: the clean one, one per augmentation, and DiffAug's, which starts from the original.

        image ──clean──▶ "clean" ──▶ "augmix1", "augmix2", ..., "deepaugment"
              ──original──▶ DiffAug ──▶ "diffaug"

    Args:
        augmentations: ``AugMix()``, ``DeepAugment()``, any v2 transform; each gives a view named by its class in lower
            case, numbered where a class comes twice (a ``v2.Compose`` takes the name of its last transform).
        diffaug: makes the view "diffaug"; None: no such view.
        clean: such as a random crop and a flip; the clean view and the augmentations start from its output.
        original: makes the image that DiffAug starts from, such as Resize(256) and CenterCrop(224); None: nothing.

    Returns:
        ``Views``, whose two halves may run apart: ``per_sample`` in DataLoader workers, ``on_batch`` on the device.

    Example:
        >>> views = compose_with(AugMix(), AugMix(), diffaug=DiffAug("cifar10"))
        >>> list(views(torch.rand(4, 3, 32, 32)))
        ['clean', 'augmix1', 'augmix2', 'diffaug']
    """
    for transform in augmentations:
        if not callable(transform):
            raise TypeError(f"augmentations must be transforms. Got {transform!r}")
        if isinstance(transform, DiffAug):
            raise TypeError(f"DiffAug is no augmentation among others: pass it as diffaug=. Got {transform!r}")
    if diffaug is not None and not isinstance(diffaug, DiffAug):
        raise TypeError(f"diffaug must be a DiffAug. Got {type(diffaug).__name__}")
    named = dict(zip(view_names(augmentations), augmentations))
    on_batch = {name: t for name, t in named.items() if isinstance(t, DeepAugment)}
    per_sample = {name: t for name, t in named.items() if name not in on_batch}
    apart = diffaug is not None and (clean is not None or original is not None)
    return Views(SampleViews(per_sample, clean, original, apart), BatchViews(on_batch, diffaug))


def view_names(transforms: tuple[Callable[[Any], Any], ...]) -> list[str]:
    """Class names in lower case, numbered from 1 where they repeat."""
    bare = []
    for transform in transforms:
        while isinstance(transform, v2.Compose):
            transform = transform.transforms[-1]
        bare.append(type(transform).__name__.lower())
    counts, seen = Counter(bare), Counter[str]()
    names = []
    for name in bare:
        seen[name] += 1
        names.append(name if counts[name] == 1 else f"{name}{seen[name]}")
    return names


class Views(nn.Module):
    """What ``compose_with`` makes. Call it with images (B, C, H, W), or run its two halves apart."""

    def __init__(self, per_sample: SampleViews, on_batch: BatchViews) -> None:
        super().__init__()
        self.per_sample = per_sample
        self.on_batch = on_batch

    def forward(self, images: Any, labels: Tensor | None = None) -> dict[str, Tensor]:
        """All views by name, as ``tv_tensors.Image``. ``labels`` (B,) are for conditional networks."""
        return self.on_batch(self.per_sample(images), labels)


class SampleViews(nn.Module):
    """The half for DataLoader workers: one image, or a batch, to the views that need no network. Picklable."""

    def __init__(
        self,
        augmentations: Mapping[str, Callable[[Any], Any]],
        clean: Callable[[Any], Any] | None,
        original: Callable[[Any], Any] | None,
        apart: bool,
    ) -> None:
        super().__init__()
        self.augmentations = dict(augmentations)
        self.clean = clean
        self.original = original
        self.apart = apart

    def forward(self, image: Any) -> dict[str, Tensor]:
        """Views by name; "diffaug" is the image that DiffAug is to start from, where that is not the clean view."""
        clean = self.clean(image) if self.clean is not None else image
        views = {"clean": clean, **{name: augment(clean) for name, augment in self.augmentations.items()}}
        if self.apart:
            views["diffaug"] = self.original(image) if self.original is not None else image
        return {name: F.to_image(view) for name, view in views.items()}


class BatchViews(nn.Module):
    """The half for the device: adds the views that networks make to a batch of ``SampleViews``' views."""

    def __init__(self, augmentations: Mapping[str, DeepAugment], diffaug: DiffAug | None) -> None:
        super().__init__()
        self.augmentations = nn.ModuleDict(augmentations)
        self.diffaug = diffaug

    def forward(self, views: Mapping[str, Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        # As tv_tensors.Image every view is an image to the v2 transforms that follow, such as MixUp and CutMix.
        images = {name: tv_tensors.Image(view) for name, view in views.items()}
        start = images.pop("diffaug", images["clean"])
        for name, augment in self.augmentations.items():
            images[name] = augment(images["clean"])
        if self.diffaug is not None:
            images["diffaug"] = self.diffaug(start) if labels is None else self.diffaug(start, labels)[0]
        elif "diffaug" in views:
            images["diffaug"] = start
        return images


class ViewsLoss(nn.Module):
    """CE(clean) + CE(diffaug) + 12 JSD(clean, augmented...): the paper's loss over the logits of named views.

    (Sastry et al., NeurIPS 2024; the JSD term is AugMix's, Hendrycks et al., ICLR 2020, eq. 1, its mixture clamped to
    [1e-7, 1] before the logarithm as in google-research/augmix.) A term whose views are absent is absent.

    Args:
        clean, diffaug, deepaugment: weights of the cross-entropies of the views of these names.
        augmented: weight of the cross-entropy of every other view.
        jsd: weight of the Jensen-Shannon divergence of the clean and every other view.

    Example:
        >>> loss = ViewsLoss()({"clean": torch.randn(4, 10), "diffaug": torch.randn(4, 10)}, torch.arange(4))
    """

    def __init__(
        self,
        *,
        clean: float = 1.0,
        diffaug: float = 1.0,
        deepaugment: float = 1.0,
        augmented: float = 0.0,
        jsd: float = 12.0,
    ) -> None:
        super().__init__()
        weights = {"clean": clean, "diffaug": diffaug, "deepaugment": deepaugment, "augmented": augmented, "jsd": jsd}
        for name, weight in weights.items():
            if weight < 0:
                raise ValueError(f"{name} must be at least 0. Got {weight}")
        self.weights = weights

    def forward(self, logits: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """The loss, a scalar, of logits (B, K) by view; targets int64 (B,), or probabilities (B, K) after MixUp."""
        if "clean" not in logits:
            raise ValueError(f"views must hold 'clean'. Got {list(logits)}")
        kinds = {name: self._kind(name) for name in logits}
        loss = logits["clean"].new_zeros((), dtype=torch.float32)
        for name, view in logits.items():
            if self.weights[kinds[name]]:
                loss = loss + self.weights[kinds[name]] * functional.cross_entropy(view.float(), targets)
        compared = [view for name, view in logits.items() if kinds[name] in ("clean", "augmented")]
        if self.weights["jsd"] and len(compared) > 1:
            loss = loss + self.weights["jsd"] * jensen_shannon_divergence(torch.stack(compared))
        return loss

    def _kind(self, name: str) -> str:
        bare = name.rstrip("0123456789")
        return bare if bare in ("clean", "diffaug", "deepaugment") else "augmented"

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={weight}" for name, weight in self.weights.items())


def jensen_shannon_divergence(logits: Tensor) -> Tensor:
    """Mean over the batch of mean_v KL(p_v || mixture), in nats, of logits (V, B, K): a scalar."""
    log_probabilities = logits.float().log_softmax(dim=-1)
    log_mixture = log_probabilities.exp().mean(dim=0).clamp(1e-7, 1).log()
    divergence = functional.kl_div(log_mixture.expand_as(logits), log_probabilities, reduction="none", log_target=True)
    return divergence.sum(dim=-1).mean()
