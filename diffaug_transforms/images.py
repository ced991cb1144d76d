"""Every conversion and check of images: what people hold <-> the float batch that everything computes on.

    PIL image, uint8, float, tv_tensors (..., C, H, W), NumPy (..., H, W, C)  --to_batch-->  float32 (B, C, H, W)
                                                                             <--from_batch--      in [0, 1]

``transform_sample`` finds the images in a sample of any structure: what DiffAug, AugMix and DeepAugment share. `image`
and `images` are pixels in [0, 1] or 0...255. `x_0` and `x_t` are on the scale of [-1, 1] (see `score`).
"""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from .arguments import FLOATS, shown
from .labels import as_labels
from .pictures import MAX_SIDE as MAX_SIDE
from .pictures import check_sides as check_sides
from .pictures import load_image as load_image
from .without_waiting import LateChecks

#: The only data folder of the package: network weights, classifiers, sample images, tables.
ASSETS = Path(__file__).parent / "assets"
#: A chain of float transforms may leave [0, 1] by a rounding error.
TOLERANCE = 5e-5
#: Bicubic resizing may leave it by this much.
OVERSHOOT = 0.2
#: Modes of PIL images whose bands are the channels of a network. All others are refused, HSV and palettes too.
MODES = ("L", "LA", "RGB", "RGBA")
#: The types of arrays that hold pixels.
ARRAY_DTYPES = (np.uint8, np.float16, np.float32, np.float64)
#: Types that are images wherever they stand in a sample.
IMAGE_TYPES = (PIL.Image.Image, tv_tensors.Image, tv_tensors.Video)

#: One image or many. Arrays have their channels last, tensors have them third from last.
Image = Tensor | PIL.Image.Image | np.ndarray


def batch_shape(image: Image) -> tuple[tuple[int, ...], torch.device]:
    """(B, C, H, W) of the batch that ``to_batch`` makes, and its device. ValueError below three dimensions."""
    if isinstance(image, PIL.Image.Image):
        return (1, len(image.getbands()), image.height, image.width), torch.device("cpu")
    if isinstance(image, np.ndarray):
        *rest, height, width, channels = _check_array(image).shape
        return (math.prod(rest), channels, height, width), torch.device("cpu")
    if not isinstance(image, Tensor):
        raise _not_an_image(image)
    if image.ndim < 3:
        raise ValueError(f"images must be (..., C, H, W). Got shape {tuple(image.shape)}")
    return (math.prod(image.shape[:-3]), *image.shape[-3:]), image.device


def to_pixels(image: Image) -> Tensor:
    """One image or many as a plain (B, C, H, W) tensor of their own dtype."""
    if isinstance(image, PIL.Image.Image):
        if image.mode not in MODES:
            raise ValueError(f'PIL images must be RGB. Got mode {image.mode!r}: image.convert("RGB")')
        return F.pil_to_tensor(image)[None]
    if isinstance(image, np.ndarray):
        channels_first = np.moveaxis(_check_array(image), -1, -3)
        return to_pixels(torch.from_numpy(channels_first.copy()))
    if not isinstance(image, Tensor) or (isinstance(image, tv_tensors.TVTensor) and not isinstance(image, IMAGE_TYPES)):
        raise _not_an_image(image)
    if image.ndim < 3:
        raise ValueError(f"images must be (..., C, H, W). Got shape {tuple(image.shape)}")
    pixels = image.as_subclass(Tensor) if isinstance(image, tv_tensors.TVTensor) else image
    return pixels.reshape(math.prod(image.shape[:-3]), *image.shape[-3:])


def _not_an_image(image: Any) -> TypeError:
    if isinstance(image, (list, tuple)):
        cure = "stack those of one size, as in torch.stack([v2.functional.pil_to_tensor(image) for image in images])"
        return TypeError(f"images must be one batch. Got a {type(image).__name__} of {len(image)}: {cure}")
    got = type(image).__name__ if isinstance(image, Tensor) else shown(image)
    return TypeError(f"images must be PIL images, tensors (..., C, H, W) or NumPy arrays (..., H, W, C). Got {got}")


def _check_array(image: np.ndarray) -> np.ndarray:
    if image.dtype not in ARRAY_DTYPES:
        raise TypeError(f"arrays must be uint8 in 0...255 or floating point in [0, 1]. Got {image.dtype}")
    if image.ndim < 3:
        raise ValueError(f"arrays must be (..., H, W, C). Got shape {image.shape}")
    if image.shape[-1] > 4 and image.shape[-3] <= 4:
        raise ValueError(f"arrays must be (..., H, W, C). Got shape {image.shape}: np.moveaxis(array, -3, -1)")
    return image


def to_batch(image: Image, late_checks: LateChecks | None = None) -> Tensor:
    """One image or many as float32 (B, C, H, W) in [0, 1].

    Args:
        image: a PIL image, a tensor (..., C, H, W), or a NumPy array (..., H, W, C): uint8 in 0...255, or floating
            point in [0, 1].
        late_checks: where the check of values on a device other than the CPU goes; those of earlier calls are read.
            None: the host waits for it.

    Raises:
        TypeError: another type or dtype. ValueError: fewer than three dimensions, no pixels, values outside [0, 1] or
            not finite, a PIL image of another mode than ``MODES``.

    Example:
        >>> to_batch(torch.tensor([[[0, 51, 255]]], dtype=torch.uint8))
        tensor([[[[0.0000, 0.2000, 1.0000]]]])
    """
    if late_checks is not None and late_checks.waiting:
        late_checks.read()
    pixels = to_pixels(image)
    if pixels.shape[0] and not pixels.numel():
        raise ValueError(f"images must have at least one pixel and one channel. Got shape {tuple(pixels.shape)}")
    if pixels.dtype == torch.uint8:
        return pixels.float() / 255
    if pixels.dtype not in FLOATS:
        raise TypeError(f"images must be uint8 in 0...255 or floating point in [0, 1]. Got {pixels.dtype}")
    if not torch.compiler.is_compiling() and pixels.numel():
        ends = torch.stack(torch.aminmax(pixels.detach()))
        if late_checks is not None and pixels.device.type != "cpu":
            late_checks.add(ends, _range_error)
        elif error := _range_error(ends.tolist()):
            raise error
    return pixels.float()


def _range_error(ends: list[float]) -> ValueError | None:
    """The error for floating point images with this least and largest value, or None. It names the likely cure."""
    low, high = ends
    if low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return None
    cure = ""
    if low >= -OVERSHOOT and high <= 1 + OVERSHOOT:
        cure = ": use images.clamp(0, 1), because some ways of resizing overshoot"
    elif low >= 0 and high <= 255:
        cure = ": divide by 255, or use v2.ToDtype(torch.float32, scale=True)"
    elif -math.inf < low < 0 and high < math.inf:
        cure = (
            ": put this before Normalize (wrappers of a classifier take normalize=(mean, std)); "
            "images in [-1, 1] need (images + 1) / 2"
        )
    values = [round(low, 4), round(high, 4)]
    return ValueError(f"floating point images must be finite and in [0, 1]. Got values in {values}{cure}")


def to_dtype(batch: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 in [0, 1] as uint8, rounded, or as another floating point type."""
    return (batch * 255).round().to(dtype) if dtype == torch.uint8 else batch.to(dtype)


def from_batch(batch: Tensor, like: Image, index: Tensor | None = None) -> Image:
    """A float32 batch in [0, 1] in the type, dtype and shape of ``like``: the inverse of ``to_batch``.

    Args:
        batch: (B, C, H, W), B the number of images in ``like``; with ``index``, as many as that has entries.
        like: what ``to_batch`` took.
        index: int64, the places of the batch's images in ``like``. The other images keep their exact values.
    """
    if isinstance(like, PIL.Image.Image):
        return like if index is not None and not len(index) else restore(to_dtype(batch, torch.uint8), like)
    dtype = like.dtype if isinstance(like, Tensor) else torch.from_numpy(np.empty(0, like.dtype)).dtype
    pixels = to_dtype(batch, dtype)
    return restore(pixels if index is None else to_pixels(like).index_copy(0, index, pixels), like)


def restore(pixels: Tensor, like: Image) -> Image:
    """(B, C, H, W) pixels of the final dtype in the type and shape of ``like``."""
    if isinstance(like, PIL.Image.Image):
        return F.to_pil_image(pixels[0], mode=like.mode)
    if isinstance(like, np.ndarray):
        return pixels.detach().permute(0, 2, 3, 1).reshape(like.shape).contiguous().numpy()
    pixels = pixels.reshape(like.shape)
    return tv_tensors.wrap(pixels, like=like) if isinstance(like, tv_tensors.TVTensor) else pixels


def check_channels(batch: Tensor, *channels: int) -> None:
    """ValueError unless a batch (B, C, H, W) has one of these numbers of channels. The message names the cure."""
    got = batch.shape[1]
    if got in channels:
        return
    cure = ""
    if batch.shape[-1] in channels and got > 4:
        cure = ": images.movedim(-1, -3), because channels come third from last"
    elif 3 in channels and got in (1, 2):
        cure = ': image.convert("RGB"), or v2.RGB() for tensors'
    elif 3 in channels and got == 4:
        cure = ': image.convert("RGB"), or images[..., :3, :, :] for tensors'
    elif channels == (1,) and got == 3:
        cure = ": v2.Grayscale()"
    allowed = " or ".join(str(number) for number in channels)
    raise ValueError(f"images must have {allowed} channel{'s' if channels[-1] > 1 else ''}. Got {got}{cure}")


def is_image_list(node: Any) -> bool:
    """Whether a part of a sample is a list of single images, as Hugging Face batches have them; also an empty list.

    Tensors and arrays in it must have three dimensions and the same number of channels.
    """
    if not isinstance(node, list):
        return False
    tensors = [image for image in node if not isinstance(image, PIL.Image.Image)]
    plain = [image for image in tensors if not isinstance(image, IMAGE_TYPES)]
    if not all(map(_may_be_image, plain)) or any(image.ndim != 3 for image in tensors):
        return False
    return len({batch_shape(image)[0][1] for image in plain}) <= 1


def _may_be_image(node: Any) -> bool:
    """Whether a plain tensor or array could hold images: pixels of a known type, at least three dimensions."""
    if isinstance(node, np.ndarray):
        return node.ndim >= 3 and node.dtype in ARRAY_DTYPES
    plain = isinstance(node, Tensor) and not isinstance(node, tv_tensors.TVTensor)
    return plain and node.ndim >= 3 and (node.dtype == torch.uint8 or node.is_floating_point())


def flatten_sample(sample: Any) -> tuple[list[Any], TreeSpec]:
    """The leaves of a sample, a list of images being one, and its structure.

    A mapping that is no plain dict becomes one, such as the batch that ``map`` of Hugging Face datasets passes.
    """
    if isinstance(sample, Mapping) and type(sample) not in (dict, OrderedDict, defaultdict):
        sample = dict(sample)
    return tree_flatten(sample, is_leaf=is_image_list)


def find_images(leaves: list[Any]) -> list[int]:
    """The places of the images among the leaves of a sample, by the rules of torchvision's v2 transforms.

    - PIL images, ``tv_tensors.Image`` and ``tv_tensors.Video`` are images, and so is all that a list of images holds.
      A PIL image of one band beside images of more is a mask, and is none.
    - If there are none of them, the first plain tensor or array that may hold images is one.

    Raises:
        TypeError, ValueError: there is no image. An empty list is a batch without images.
    """
    sure = [i for i, leaf in enumerate(leaves) if isinstance(leaf, IMAGE_TYPES) or (isinstance(leaf, list) and leaf)]
    masks = {i for i in sure if isinstance(leaves[i], PIL.Image.Image) and len(leaves[i].getbands()) == 1}
    if sure:
        return [i for i in sure if i not in masks] or sure
    for i, leaf in enumerate(leaves):
        if _may_be_image(leaf):
            return [i]
    if any(isinstance(leaf, list) for leaf in leaves):
        return []
    raise _no_image(leaves)


def _no_image(leaves: list[Any]) -> Exception:
    """The error for a sample without an image: what its likeliest part lacks, or what to pass."""
    for leaf in leaves:
        if isinstance(leaf, (Tensor, np.ndarray)) and not isinstance(leaf, tv_tensors.TVTensor):
            try:
                to_batch(leaf)
            except (TypeError, ValueError) as error:
                return error
    kinds = ", ".join(dict.fromkeys(type(leaf).__name__ for leaf in leaves)) or "nothing"
    return TypeError(
        "a sample must hold an image: a PIL image, a tensor or tv_tensors.Image (..., C, H, W), a NumPy array "
        f"(..., H, W, C), or a list of images. Got {kinds}"
    )


def transform_sample(transform: Any, sample: Any, labels: Any = None) -> Any:
    """Augment all images in a sample. Everything else in it comes back as the same object.

    Images of one shape share the draw, as in torchvision's v2. Images in a list have each their own.

    Args:
        transform: draws with ``make_params`` and applies with ``transform``.
        sample: an image, or any structure of tuples, lists and dicts with images in it. A mapping of another type, such
            as a lazy batch of Hugging Face datasets, comes back as a dict.
        labels: put into the params as "labels", one for each image.

    Raises:
        TypeError, ValueError: there is no image in the sample.
    """
    if type(sample) in (Tensor, tv_tensors.Image):
        return transform.transform(sample, draw(transform, sample, labels))
    leaves, structure = flatten_sample(sample)
    draws: dict[Any, dict[str, Any]] = {}
    for i in find_images(leaves):
        if isinstance(leaves[i], list):
            leaves[i] = transform_list(transform, leaves[i], labels)
            continue
        shape = batch_shape(leaves[i])
        if shape not in draws:
            draws[shape] = draw(transform, leaves[i], labels)
        leaves[i] = transform.transform(leaves[i], draws[shape])
    return tree_unflatten(leaves, structure)


def draw(transform: Any, image: Any, labels: Any) -> dict[str, Any]:
    """The transform's params for an image or a batch, with labels if there are any."""
    params = transform.make_params([image])
    return params if labels is None else {**params, "labels": labels}


def transform_list(transform: Any, images: list[Any], labels: Any) -> list[Any]:
    """Augment a list of images, each with its own draw. Those of one shape go through the transform as one batch."""
    places: dict[Any, list[int]] = {}
    for i, image in enumerate(images):
        places.setdefault(batch_shape(image)[0][1:], []).append(i)
    if labels is not None:
        labels = as_labels(labels, len(images), "cpu")
    result = list(images)
    for same in places.values():
        batch = torch.cat([to_batch(images[i]) for i in same])
        params = draw(transform, batch, None if labels is None else labels[same])
        views = transform.transform(batch, params)
        for n, i in enumerate(same):
            if params.get("selected", [True] * len(same))[n]:
                result[i] = from_batch(views[n : n + 1], images[i])
    return result


def sample_images() -> dict[str, PIL.Image.Image]:
    """The eight CIFAR-10 test images that the package ships, by class name."""
    return {path.stem: load_image(path) for path in sorted((ASSETS / "samples").glob("*.png"))}


def sample_photo() -> PIL.Image.Image:
    """The photo of a cat that the package ships, 451x300 pixels: Chelsea, by Stéfan van der Walt (CC0)."""
    return load_image(ASSETS / "samples" / "photo.jpg")
