"""The checks of arguments, by hand: what comes back, and what each says of a bad value."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from diffaug_transforms.arguments import (
    as_integer,
    as_names,
    as_normalize,
    as_number,
    as_optional_integer,
    as_path,
    as_timesteps,
    check_callable,
    check_choice,
    check_classifier,
    check_dtype,
    check_flags,
    check_generator,
    check_instance,
    check_tensor,
    shown,
)

RIGHT = [
    (lambda: as_number("p", 1), 1),
    (lambda: as_number("p", np.float32(0.5), at_least=0, at_most=1), 0.5),
    (lambda: as_number("p", Fraction(1, 4)), 0.25),
    (lambda: as_integer("n", np.int64(3), 1), 3),
    (lambda: as_integer("n", 5, 1, 5), 5),
    (lambda: as_optional_integer("n", None, 1), None),
    (lambda: as_path("folder", "a/b"), Path("a/b")),
    (lambda: as_names("classes", ["cat", "dog"]), ("cat", "dog")),
    (lambda: as_timesteps(None), None),
    (lambda: as_timesteps(np.int64(9)), (9,)),
    (lambda: as_timesteps(torch.tensor([3, 1, 3])), (3, 1, 3)),
    (lambda: as_timesteps(range(0, 9, 4)), (0, 4, 8)),
    (lambda: as_normalize(len), len),
    (lambda: as_normalize((0.5, [0.1, 0.2])).std, [0.1, 0.2]),
    (lambda: as_normalize((np.array([0.5, 0.4]), torch.tensor([1.0, 2.0]))).mean, [0.5, 0.4]),
    (lambda: shown(torch.zeros(2, 3)), "Tensor of shape (2, 3)"),
    (lambda: shown(nn.ReLU()), "ReLU"),
    (lambda: shown("x" * 100), "'" + "x" * 76 + "..."),
]
WRONG = [
    (lambda: as_number("p", 1.5, at_least=0, at_most=1), ValueError, "p must be in [0, 1]. Got 1.5"),
    (lambda: as_number("p", 0, above=0, below=1), ValueError, "p must be in (0, 1). Got 0"),
    (lambda: as_number("p", -1, at_least=0), ValueError, "p must be at least 0. Got -1"),
    (lambda: as_number("p", 0, above=0), ValueError, "p must be finite and above 0. Got 0"),
    (lambda: as_number("p", 3, at_most=2), ValueError, "p must be at most 2. Got 3"),
    (lambda: as_number("p", math.nan), ValueError, "p must be finite. Got nan"),
    (lambda: as_number("p", math.inf, above=0), ValueError, "Got inf"),
    (lambda: as_number("p", "1"), TypeError, "p must be a number. Got '1'"),
    (lambda: as_number("p", True), TypeError, "p must be a number. Got True"),
    (lambda: as_integer("n", 3.0, 1), TypeError, "n must be an integer. Got 3.0"),
    (lambda: as_integer("n", False, 0), TypeError, "n must be an integer. Got False"),
    (lambda: as_integer("n", torch.tensor(3), 0), TypeError, "n must be an integer. Got tensor(3)"),
    (lambda: as_integer("n", 0, 1), ValueError, "n must be at least 1. Got 0"),
    (lambda: as_integer("n", 6, 1, 5), ValueError, "n must be in 1...5. Got 6"),
    (lambda: as_optional_integer("n", "", 1), TypeError, "n must be an integer. Got ''"),
    (lambda: as_path("folder", 5), TypeError, "folder must be a path. Got 5"),
    (lambda: as_integer("n", np.zeros(3), 0), TypeError, "n must be an integer. Got ndarray of shape (3,)"),
    (
        lambda: as_names("classes", "cat"),
        TypeError,
        "a list of names, such as ['cat', 'dog']. Got 'cat'",
    ),
    (lambda: as_names("classes", ["cat", 3]), TypeError, "Got ['cat', 3]"),
    (lambda: as_timesteps([]), ValueError, "timesteps must hold at least one timestep. Got none"),
    (lambda: as_timesteps([1, -1]), ValueError, "timesteps must be at least 0. Got -1"),
    (lambda: as_timesteps([1, 2.0]), TypeError, "timesteps must be integers. Got 2.0"),
    (lambda: as_timesteps("5"), TypeError, "timesteps must be integers, or one integer. Got '5'"),
    (lambda: as_timesteps(0.5), TypeError, "Got 0.5"),
    (lambda: as_normalize((0.5, 0)), ValueError, "std must be finite and above 0. Got 0"),
    (lambda: as_normalize(([0.5] * 3, [1, 2])), ValueError, "as many means as stds. Got 3 and 2"),
    (lambda: as_normalize(((123.7, 116.3, 103.5), 58.0)), ValueError, "mean must be at most 1. Got 123.7"),
    (lambda: as_normalize((0.5, 0.5, 0.5)), TypeError, "normalize must be (mean, std), a callable or None"),
    (lambda: as_normalize(("a", 1)), TypeError, "mean must be a number. Got 'a'"),
    (lambda: check_flags(compile=1), TypeError, "compile must be True or False. Got 1"),
    (lambda: check_choice("mode", "x", ("a", "b")), ValueError, "mode must be one of a, b. Got 'x'"),
    (lambda: check_choice("mode", ["a"], {"a": 1}), ValueError, "mode must be one of a. Got ['a']"),
    (lambda: check_generator(42), TypeError, "generator must be a torch.Generator or None. Got 42"),
    (lambda: check_classifier(None), TypeError, "classifier must be a module from images to logits"),
    (lambda: check_classifier(nn.ReLU), TypeError, "classifier must be a module from images to logits"),
    (lambda: check_dtype("bfloat16"), TypeError, "dtype must be a torch.dtype, such as torch.bfloat16, or None."),
    (lambda: check_dtype(torch.int64), ValueError, "dtype must be float16, bfloat16, float32 or float64."),
    (lambda: check_callable("guide", 3, "a function"), TypeError, "guide must be a function or None. Got 3"),
    (lambda: check_instance("x", 3, str, " or so"), TypeError, "x must be a str or so. Got 3"),
    (lambda: check_instance("x", 3, (nn.ReLU, str)), TypeError, "x must be a ReLU or str. Got 3"),
    (lambda: check_instance("x", 3, ImportError), TypeError, "x must be an ImportError. Got 3"),
    (
        lambda: check_tensor("t", torch.ones(2), (torch.int64,), "int64 (B,)"),
        TypeError,
        "int64 (B,). Got torch.float32",
    ),
    (lambda: check_tensor("t", 5, (torch.int64,), "int64 (B,)"), TypeError, "t must be int64 (B,). Got 5"),
]


@pytest.mark.parametrize(("call", "expected"), RIGHT, ids=range(len(RIGHT)))
def test_right_values(call, expected):
    result = call()
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(("call", "error", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_values(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


def test_what_is_right_passes():
    check_flags(compile=True, progress=False)
    check_choice("mode", "a", ("a", "b"))
    for generator in (None, torch.Generator()):
        check_generator(generator)
    for classifier in (nn.ReLU(), lambda images: images):
        check_classifier(classifier)
    for dtype in (None, torch.bfloat16):
        check_dtype(dtype)
    check_callable("guide", None, "a function")
    check_tensor("t", torch.zeros(2), (torch.float32,), "float32")
    assert isinstance(as_normalize(None), nn.Identity)
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(as_normalize((0.5, 0.2))(images), v2.Normalize([0.5] * 3, [0.2] * 3)(images))
