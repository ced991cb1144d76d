"""What every transform of the package must do, stated once: call them with any v2 transform of images.

A transform under test is built by ``make()`` and takes images of ``size`` pixels; two built alike draw alike from
``torch.manual_seed``.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import PIL.Image
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
    assert make()({"label": 3}) == {"label": 3}


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
    check_empty_batch,
    check_a_draw,
]
#: For transforms that draw everything anew at each call.
CHECKS_OF_SEEDS = [check_seeds_repeat, check_pickles_and_copies]
