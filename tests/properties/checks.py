"""Whether the result of a call has the right form. A complaint is a sentence; None means that all is well."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten
from torchvision import tv_tensors

from .expectations import count_images, image_expectation, image_roles, sample_expectation

#: Images with fewer values, or of one colour, may come back unchanged.
ENOUGH = 100


@dataclass(frozen=True)
class SampleCheck:
    """A transform of samples: images come back in their form, all else as the same objects.

    Attributes:
        channels: of the images that it takes.
        changes: every image must differ afterwards.
        detached: no image may carry a gradient afterwards.
    """

    channels: Collection[int] = (3,)
    changes: bool = True
    detached: bool = True

    def expects(self, arguments: list[Any]) -> bool | None:
        return sample_expectation(_as_sample(arguments), self.channels)

    def complaint(self, arguments: list[Any], result: Any) -> str | None:
        sample = _as_sample(arguments)
        before, structure = tree_flatten(sample)
        after, new_structure = tree_flatten(result)
        if structure != new_structure:
            return f"structure {new_structure} instead of {structure}"
        for old, new, role in zip(before, after, image_roles(sample)):
            if new is old and role != "image":
                continue
            if role == "other":
                return f"{type(old).__name__} that is no image was replaced"
            problem = image_complaint(old, new, self.changes, self.detached)
            if problem:
                return problem
        return None


def _as_sample(arguments: list[Any]) -> Any:
    return arguments[0] if len(arguments) == 1 else tuple(arguments)


def image_complaint(old: Any, new: Any, changes: bool, detached: bool) -> str | None:
    """What is wrong with one image after a transform."""
    kinds = (type(old), Tensor) if isinstance(old, torch.nn.Parameter) else (type(old),)
    pictures = isinstance(old, PIL.Image.Image) and isinstance(new, PIL.Image.Image)
    if type(new) not in kinds and not pictures:
        return f"{type(new).__name__} instead of {type(old).__name__}"
    if isinstance(old, PIL.Image.Image):
        if (new.mode, new.size) != (old.mode, old.size):
            return f"picture {new.mode} {new.size} instead of {old.mode} {old.size}"
        return _unchanged(np.asarray(old), np.asarray(new), changes)
    if new.shape != old.shape or new.dtype != old.dtype:
        return f"{new.dtype} {tuple(new.shape)} instead of {old.dtype} {tuple(old.shape)}"
    if isinstance(new, np.ndarray):
        return range_complaint(torch.from_numpy(np.ascontiguousarray(new))) or _unchanged(old, new, changes)
    if detached and new.requires_grad and new.numel():
        return "a gradient that nobody asked for"
    old, new = (image.detach().as_subclass(Tensor) for image in (old, new))
    return range_complaint(new) or _unchanged(old.double().numpy(), new.double().numpy(), changes)


def range_complaint(image: Tensor) -> str | None:
    """Images are in [0, 1], or uint8."""
    if not image.numel() or image.dtype == torch.uint8:
        return None
    low, high = float(image.double().min()), float(image.double().max())
    return None if low >= -1e-3 and high <= 1 + 1e-3 else f"values in [{low}, {high}]"


def _unchanged(old: np.ndarray, new: np.ndarray, changes: bool) -> str | None:
    if not changes or old.size < ENOUGH or old.min() == old.max():
        return None
    return "an image came back unchanged" if np.array_equal(old, new) else None


@dataclass(frozen=True)
class BatchCheck:
    """A wrapper of a classifier: images in, one float32 row of K numbers for each image out.

    Attributes:
        kind: "log" for log-probabilities, "proba" for probabilities, "logits", or "scores", (B,). Probabilities carry
            no gradient; scores carry one only for images that do.
        checks_values: floats outside [0, 1] must be refused. Otherwise NaN may give NaN.
    """

    kind: str = "log"
    channels: Collection[int] = (3,)
    classes: int = 7
    checks_values: bool = True

    def expects(self, arguments: list[Any]) -> bool | None:
        images = arguments[0]
        if not self.checks_values and isinstance(images, Tensor) and images.is_floating_point():
            return None
        return batch_expectation(images, self.channels)

    def complaint(self, arguments: list[Any], result: Any) -> str | None:
        number = count_images(arguments[0])
        shape = (number,) if self.kind == "scores" else (number, self.classes)
        finite = self.checks_values or bool(arguments[0].isfinite().all())
        problem = tensor_complaint(result, shape, finite=finite)
        if problem:
            return problem
        asked = self.kind == "scores" and isinstance(arguments[0], Tensor) and arguments[0].requires_grad
        if self.kind in ("proba", "scores") and result.requires_grad and not asked:
            return "a gradient that nobody asked for"
        if not len(result) or self.kind in ("logits", "scores"):
            return None
        sums = (result if self.kind == "proba" else result.exp()).detach().sum(1)
        return None if torch.allclose(sums, torch.ones(()), atol=1e-3) else f"probabilities that sum to {sums[0]}"


@dataclass(frozen=True)
class AdaptCheck:
    """Images in, images of the same form out, for one batch: DDA."""

    channels: Collection[int] = (3,)
    changes: bool = True

    def expects(self, arguments: list[Any]) -> bool | None:
        return batch_expectation(arguments[0], self.channels)

    def complaint(self, arguments: list[Any], result: Any) -> str | None:
        return image_complaint(arguments[0], result, self.changes, detached=True)


def batch_expectation(images: Any, channels: Collection[int]) -> bool | None:
    """Batches (B, C, H, W) of plain tensors must be taken. Other forms of good images may be; bad ones must not."""
    if isinstance(images, (list, tuple, dict)):
        return None
    verdict = image_expectation(images, channels)
    usual = isinstance(images, Tensor) and images.ndim == 4 and not isinstance(images, tv_tensors.TVTensor)
    return None if verdict is True and not usual else verdict


def tensor_complaint(
    result: Any, shape: tuple[int | None, ...], dtype: torch.dtype | None = torch.float32, finite: bool = True
) -> str | None:
    """What is wrong with a tensor that shall have this shape. None in the shape: any length; as dtype: any."""
    if not isinstance(result, Tensor):
        return f"{type(result).__name__} instead of a tensor"
    fits = len(shape) == result.ndim and all(n is None or n == m for n, m in zip(shape, result.shape))
    if not fits or (dtype is not None and result.dtype != dtype):
        return f"{result.dtype} {tuple(result.shape)} instead of {dtype} {shape}"
    if finite and result.is_floating_point() and not result.isfinite().all():
        return "a result that is not finite"
    return None


@dataclass(frozen=True)
class ResultCheck:
    """Anything else: ``right(arguments, result)`` is a complaint, or None.

    Attributes:
        good: whether arguments must be taken; None: what the arguments' own Values say decides alone.
    """

    right: Callable[[list[Any], Any], str | None]
    good: Callable[[list[Any]], bool | None] = lambda arguments: True

    def expects(self, arguments: list[Any]) -> bool | None:
        return self.good(arguments)

    def complaint(self, arguments: list[Any], result: Any) -> str | None:
        return self.right(arguments, result)


def like(place: int) -> Callable[[list[Any], Any], str | None]:
    """float32 of the shape of the argument at this place; finite if that is."""

    def right(arguments: list[Any], result: Any) -> str | None:
        return tensor_complaint(result, tuple(arguments[place].shape), finite=bool(arguments[place].isfinite().all()))

    return right


like_first, like_second = like(0), like(1)


def number_in(low: float = -math.inf, high: float = math.inf) -> Callable[[list[Any], Any], str | None]:
    def right(arguments: list[Any], result: Any) -> str | None:
        if isinstance(result, bool) or not isinstance(result, (int, float)):
            return f"{type(result).__name__} instead of a number"
        return None if low <= result <= high else f"{result} outside [{low}, {high}]"

    return right


def instance_of(*kinds: type) -> Callable[[list[Any], Any], str | None]:
    def right(arguments: list[Any], result: Any) -> str | None:
        return None if isinstance(result, kinds) else f"{type(result).__name__} instead of {kinds[0].__name__}"

    return right


def finite_scalar(arguments: list[Any], result: Any) -> str | None:
    return tensor_complaint(result, ())
