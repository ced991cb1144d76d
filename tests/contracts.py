"""What every transform of the package must do, stated once: call them with any v2 transform of images.

A transform under test is built by ``make()`` and takes images of ``size`` pixels; two built alike draw alike from
``torch.manual_seed``.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

Make = Callable[[], Any]


def images(size: int, batch: int = 4, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(batch, 3, size, size, generator=generator)
    return (pixels * 255).round().to(dtype) if dtype == torch.uint8 else pixels.to(dtype)


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal noise."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(transform: Any, *inputs: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return transform(*inputs)


def check_type_shape_and_range(make: Make, size: int, dtype: torch.dtype) -> None:
    batch = images(size, dtype=dtype)
    for image in (batch, batch[0], tv_tensors.Image(batch), batch.reshape(2, 2, 3, size, size)):
        output = seeded(make(), image)
        assert type(output) is type(image)
        assert output.shape == image.shape
        assert output.dtype == dtype
        assert output.min() >= 0
        assert output.max() <= (255 if dtype == torch.uint8 else 1)
        assert not torch.equal(output, image)


def check_pil(make: Make, size: int) -> None:
    image = F.to_pil_image(images(size)[0])
    output = seeded(make(), image)
    assert isinstance(output, PIL.Image.Image)
    assert (output.mode, output.size) == (image.mode, image.size)
    assert output.tobytes() != image.tobytes()


def check_input_is_not_mutated(make: Make, size: int) -> None:
    for dtype in (torch.float32, torch.uint8):
        batch = images(size, dtype=dtype)
        before = batch.clone()
        seeded(make(), batch)
        assert torch.equal(batch, before)


def check_seeds_repeat(make: Make, size: int) -> None:
    transform, batch = make(), images(size)
    first = seeded(transform, batch)
    assert torch.equal(seeded(transform, batch), first)
    assert not torch.equal(seeded(transform, batch, seed=1), first)


def check_samples_draw_apart(make: Make, size: int) -> None:
    same = images(size, batch=1).expand(4, -1, -1, -1)
    output = seeded(make(), same)
    assert all(not torch.equal(output[0], output[i]) for i in range(1, 4))


def check_pickles_and_copies(make: Make, size: int) -> None:
    transform, batch = make(), images(size)
    unused = pickle.loads(pickle.dumps(transform))
    first = seeded(transform, batch)
    for other in (unused, pickle.loads(pickle.dumps(transform)), copy.deepcopy(transform)):
        assert torch.equal(seeded(other, batch), first)


def check_structures_pass_through(make: Make, size: int) -> None:
    batch, labels = images(size), torch.arange(4)
    output, same_labels = seeded(make(), batch, labels)
    assert same_labels is labels
    assert not torch.equal(output, batch)
    sample = {
        "image": tv_tensors.Image(batch[0]),
        "boxes": tv_tensors.BoundingBoxes([[1, 2, 3, 4]], format="XYXY", canvas_size=(size, size)),
        "masks": tv_tensors.Mask(torch.ones(1, size, size)),
        "labels": torch.tensor([1, 2, 3]),
        "path": "a.png",
    }
    result = seeded(make(), sample)
    assert list(result) == list(sample)
    assert type(result["image"]) is tv_tensors.Image
    assert not torch.equal(result["image"], sample["image"])
    assert all(result[key] is sample[key] for key in ("boxes", "masks", "labels", "path"))


def check_images_as_people_have_them(make: Make, size: int) -> None:
    """NumPy arrays with channels last, videos, pairs: the same type and range back, all else the same objects."""
    pixels = images(size, batch=3, dtype=torch.uint8)
    for dtype in (np.uint8, np.float32, np.float64):
        array = F.to_dtype(pixels, torch.float64, scale=dtype != np.uint8).permute(0, 2, 3, 1).numpy().astype(dtype)
        for one in (array, array[0], array[:, ::-1]):
            output = seeded(make(), one)
            assert (type(output), output.dtype, output.shape) == (np.ndarray, dtype, one.shape)
            assert output.min() >= 0
            assert output.max() <= (255 if dtype == np.uint8 else 1)
            assert (output != one).any()
    video = tv_tensors.Video(pixels[:1].expand(5, -1, -1, -1))
    frames = seeded(make(), video)
    assert (type(frames), frames.shape) == (tv_tensors.Video, video.shape)
    assert len({frame.sum().item() for frame in frames}) > 1  # a draw for each frame
    mask = PIL.Image.new("P", (size, size))
    picture, same_mask, text = seeded(make(), F.to_pil_image(pixels[0]), mask, "cat")
    assert (picture.mode, same_mask is mask, text) == ("RGB", True, "cat")
    collated = {"index": torch.arange(3), "mask": tv_tensors.Mask(pixels), "image": pixels}
    output = seeded(make(), collated)
    assert output["index"] is collated["index"]
    assert not torch.equal(output["image"], pixels)


def check_lists_of_images(make: Make, size: int) -> None:
    """Each image has its own draw, whatever the others' sizes; images of one size go through as one batch."""
    one = F.to_pil_image(images(size)[0])
    large = one.resize((size + 4, size))
    output = seeded(make(), {"image": [one, large, one, one], "label": [3, 5, 5, 5], "text": ["a", "b", "c", "d"]})
    assert [image.size for image in output["image"]] == [one.size, large.size, one.size, one.size]
    assert len({image.tobytes() for image in [one, *output["image"]]}) > 3
    assert (output["label"], output["text"]) == ([3, 5, 5, 5], ["a", "b", "c", "d"])
    tensors = list(images(size, batch=3))
    together = seeded(make(), torch.stack(tensors))
    assert torch.equal(torch.stack(seeded(make(), tensors)), together)
    # What a DataLoader collates is a list too: its second entry is no single image.
    batch, other = seeded(make(), [together, images(size)])
    assert torch.equal(other, images(size))
    assert not torch.equal(batch, together)
    assert make()([]) == []
    assert make()({"image": [], "label": []}) == {"image": [], "label": []}


#: A sample that holds no image, or one that must be made into another: a call, and what its error names.
def refused(size: int) -> dict[str, tuple[Any, str]]:
    good = images(size)
    picture = F.to_pil_image(good[0])
    return {
        "nothing": (None, "a sample must hold an image.*Got NoneType"),
        "a label": ({"label": 3}, "a sample must hold an image.*Got int"),
        "a path": ("cat.png", "a sample must hold an image.*Got str"),
        "an empty dict": ({}, "a sample must hold an image.*Got nothing"),
        "a mask": (tv_tensors.Mask(good), "a sample must hold an image.*Got Mask"),
        "two dimensions": (good[0, 0], r"images must be \(..., C, H, W\). Got shape"),
        "a grey array": (good[0, 0].numpy(), r"arrays must be \(..., H, W, C\). Got shape"),
        "an array with channels first": (np.zeros((3, size, size)), r"arrays must.*np.moveaxis\(array, -3, -1\)"),
        "an array of integers": (np.zeros((size, size, 3), int), "arrays must be uint8.*Got int64"),
        "channels last": (good.permute(0, 2, 3, 1), r"Got 16: images.movedim\(-1, -3\)"),
        "grey and alpha": (good[:, :2], r'Got 2: image.convert\("RGB"\)'),
        "four channels": (good[:, [0, 1, 2, 0]], r'Got 4: image.convert\("RGB"\), or images\[..., :3, :, :\]'),
        "0...255 as floats": (good * 255, "divide by 255, or use v2.ToDtype"),
        "resized beyond [0, 1]": (good * 1.1 - 0.05, r"use images.clamp\(0, 1\)"),
        "normalised": ((good - 0.5) / 0.25, "put this before Normalize"),
        "NaN": (good * torch.nan, r"Got values in \[nan, nan\]"),
        "integers": (good.long(), "must be uint8.*Got torch.int64"),
        "float8": (good.to(torch.float8_e4m3fn), "must be uint8.*Got torch.float8_e4m3fn"),
        "no height": (good[..., :0, :], "at least one pixel"),
        **{
            mode: (picture.convert(mode), f"Got mode '{mode}'.*convert") for mode in ("P", "1", "I", "F", "CMYK", "HSV")
        },
        "LAB": (PIL.Image.new("LAB", (size, size)), "Got mode 'LAB'"),
        "RGBA": (picture.convert("RGBA"), r'Got 4: image.convert\("RGB"\)'),
        "a palette in a list": ([picture, picture.convert("P")], "Got mode 'P'"),
    }


def check_refused_samples(make: Make, size: int) -> None:
    for sample, message in refused(size).values():
        with pytest.raises((TypeError, ValueError), match=message):
            make()(sample)


def check_batched_equals_unbatched(transform: Any, size: int) -> None:
    """Given the same draw, up to the rounding of other kernels."""
    batch = images(size)
    torch.manual_seed(0)
    params = transform.make_params([batch])
    together = transform.transform(batch, params)
    for i in range(len(batch)):
        one = {name: value[i : i + 1] if isinstance(value, Tensor) else value for name, value in params.items()}
        torch.testing.assert_close(
            transform.transform(batch[i : i + 1], one), together[i : i + 1], rtol=1e-4, atol=1e-4
        )


def check_draws_replay(transform: Any, size: int) -> None:
    batch = images(size)
    params = transform.make_params([batch])
    first = transform.transform(batch, params)
    torch.manual_seed(5)
    assert torch.equal(transform.transform(batch, params), first)


def check_nothing_is_stateful(transform: Any) -> None:
    """Nothing to train or to save: a checkpoint of a model around it holds the model alone."""
    assert not list(transform.parameters())
    assert not transform.state_dict()
    assert "\n" not in repr(transform)


def check_empty_batch(make: Make, size: int) -> None:
    output = seeded(make(), images(size)[:0])
    assert output.shape == (0, 3, size, size)


def check_a_draw(make: Make, size: int) -> None:
    check_batched_equals_unbatched(make(), size)
    check_draws_replay(make(), size)
    transform = make()
    transform(images(size))
    check_nothing_is_stateful(transform)


#: Each takes ``make`` and a size.
CHECKS = [
    check_pil,
    check_input_is_not_mutated,
    check_samples_draw_apart,
    check_structures_pass_through,
    check_images_as_people_have_them,
    check_lists_of_images,
    check_refused_samples,
    check_empty_batch,
    check_a_draw,
]
#: For transforms that draw everything anew at each call.
CHECKS_OF_SEEDS = [check_seeds_repeat, check_pickles_and_copies]
