"""Calls of the measures in ``robustness``: corruptions, test sets, metrics, gradients, the Jacobian."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
from hypothesis import strategies as st
from torch import Tensor
from torchvision import tv_tensors

from diffaug_transforms.robustness import CORRUPTIONS

from . import arguments as a
from . import images
from .checks import (
    ResultCheck,
    image_complaint,
    like_second,
    number_in,
    tensor_complaint,
)
from .expectations import image_expectation
from .values import Call, calls, mixed, only, pick

BATCH = "pixels((2, 3, 16, 16))"
NOISY = "pixels((2, 3, 16, 16), values='normalised')"

scores = pick(
    "[0.1, 0.4] | torch.rand(5) | np.arange(9.0) | (1, 2, 3) | torch.rand(3).half()"
    " | [inf, 0] | torch.arange(3) | pixels((4,), 'float32', 'unit', 'grad')"
    " | [True, False]",
    "[] | torch.rand(2, 2) | None | 'scores' | ['a', 'b'] | [nan] | 0.5 | [None] | {}"
    " | torch.rand(0) | [[1, 2], [3]] | [1j] | torch.tensor([1j]) | object() | {1, 2}"
    " | np.array([None])",
    "['1', '2'] | range(3) | torch.tensor([True])",
)


def corrupted(arguments: list[Any], result: Any) -> str | None:
    return image_complaint(arguments[0], result, changes=False, detached=True)


def corruptible(arguments: list[Any]) -> bool | None:
    """uint8 tensors and RGB pictures of at least 16 pixels."""
    image = arguments[0]
    verdict = image_expectation(image, (3,))
    if verdict is not True or isinstance(image, np.ndarray):
        return None if isinstance(image, np.ndarray) else verdict
    sides = image.size if isinstance(image, PIL.Image.Image) else image.shape[-2:]
    if min(sides) < 16:
        return False
    if isinstance(image, Tensor) and image.is_floating_point():
        return False
    return None if isinstance(image, tv_tensors.Video) else True


def directions_complaint(arguments: list[Any], result: Any) -> str | None:
    shape = tuple(arguments[1].shape)
    return tensor_complaint(result[0], (None,)) or tensor_complaint(result[1], (None, *shape))


gradient_labels = pick(
    "[0, 6] | torch.tensor([3, 3]) | np.array([1, 2]) | (1, 2)",
    [code for code in images.BAD_LABELS if "0, 5" not in code] + ["None", "[0, 7]"],
)
x_t = pick(
    [NOISY, "pixels((1, 3, 8, 16))", "pixels((2, 3, 16, 16), 'float64', 'normalised')"],
    "pixels((3, 16, 16)) | pixels((2, 1, 16, 16)) | None | 'x' | 7"
    " | pixels((2, 3, 16, 16), 'int64') | array((2, 3, 16, 16), 'float32') | []"
    " | pixels((2, 3, 16, 16), 'complex64')",
    "pixels((2, 3, 15, 16)) | pixels((2, 3, 16, 16), values='nan')",
)
jacobian_steps = pick(
    "torch.tensor([0, 999])",
    "torch.tensor([0, 1000]) | torch.tensor([1, 2, 3]) | torch.tensor([0.5, 1]) | None | 'x' | torch.tensor([-1, 0])",
    "7 | [3, 4]",
)


@st.composite
def jacobian_calls(draw: st.DrawFn) -> Call:
    function = draw(st.sampled_from(("jacobian_vector_product", "vector_jacobian_product", "posterior_covariance")))
    network = pick("plain | exact", "None | 'cifar10' | Denoiser(plain) | 7")
    vectors = pick([NOISY], "None | 7 | pixels((1, 3, 16, 16)) | pixels((2, 3, 16, 16), 'int64') | 'v' | []")
    x = draw(st.sampled_from((only(NOISY), x_t)))
    call = draw(calls(function, ResultCheck(like_second), [network, x, jacobian_steps, vectors]))
    fits = call.arguments[1] == NOISY or call.good is False
    return call if fits else replace(call, good=None)


#: None of them holds a test set.
folders = pick(bad="None | 7 | '/no/such/folder' | [] | b'.' | object() | '\\0' | Path('setup.cfg') | 'x' * 5000")
size = a.integer("16 | np.int64(32)", "0 | -1")
anything = ResultCheck(lambda arguments, result: None)

CALLS: dict[str, st.SearchStrategy[Call]] = {
    **{name: calls(name, ResultCheck(number_in(0, 1)), [scores, scores]) for name in ("auroc", "fpr95", "aupr")},
    "corrupt, images": calls(
        "(lambda image: corrupt(image, 'gaussian_noise', 3, seed=0))",
        ResultCheck(corrupted, corruptible),
        [mixed(images.bytes_of_pictures, images.images, images.nonsense)],
    ),
    "corrupt, arguments": calls(
        "corrupt",
        ResultCheck(corrupted),
        [
            only("pixels((2, 3, 16, 16), 'uint8')", "picture()", "pixels((3, 17, 32), 'uint8')"),
            a.choice(" | ".join(map(repr, CORRUPTIONS)), "'frosting'"),
            a.severity,
        ],
        {
            "corruption_set": a.choice("'cifar10-c' | 'tiny-imagenet-c' | 'imagenet-c'", "'cifar'"),
            "first": a.integer("0 | 5 | np.int64(3)", "-1"),
            "seed": pick(
                "None | 0 | 7 | np.int64(3) | seeded() | 10**30", "-1 | 0.5 | True | 'x' | [] | object() | nan"
            ),
        },
    ),
    "Corrupted": calls(
        "(lambda *a, **k: Corrupted(training_items, *a, **k)[0][0])",
        ResultCheck(lambda arguments, result: tensor_complaint(result, (3, 32, 32), None)),
        [
            a.choice("'fog' | 'contrast'"),
            a.severity,
        ],
        {"seed": a.integer("0 | 3", "-1"), "corruption_set": a.choice("'cifar10-c' | 'imagenet-c'")},
    ).map(lambda call: call.with_keywords(corruption_set="'cifar10-c'")),
    "load_image_folder": calls("load_image_folder", anything, [folders], {"size": size, "resize": size}).map(
        lambda call: call.with_keywords(size="16")
    ),
    "load_cifar10_c": calls("load_cifar10_c", anything, [folders, a.choice("'fog'"), a.severity]),
    "load_imagenet_set": calls(
        "load_imagenet_set", anything, [a.choice("'imagenet-r' | 'imagenet-d'", "'imagenet-c'"), folders]
    ),
    "candidate_classes": calls("candidate_classes", anything, [pick("'imagenet-r' | 'imagenet'", "", "7 | None | []")]),
    "random_subset": calls(
        "(lambda n, seed: random_subset(training_items, n, seed)[0])",
        anything,
        [a.integer("1 | 2 | 5 | np.int64(2)", "0 | -1"), a.integer("0 | 3", "", "-1 | 10**30")],
    ),
    "correct": calls(
        "correct",
        ResultCheck(lambda arguments, result: tensor_complaint(result, (4,), None)),
        [
            pick(
                "pixels((4, 7)) | pixels((4, 7), 'float16')",
                "None | pixels((4,)) | 7 | 'x' | [[1]] | pixels((4, 0)) | pixels((4, 7), 'complex64')",
                "pixels((4, 7), values='nan')",
            ),
            pick(
                "torch.arange(4) | torch.tensor([[0, 1], [2, -1], [3, 3], [4, -1]])",
                "torch.arange(3) | torch.tensor([0, 1, 2, 7]) | None | 'x' | torch.tensor([0.5] * 4) | 7"
                " | torch.zeros(4, 2, 2).long()",
                "[0, 1, 2, 3] | np.arange(4)",
            ),
        ],
        {
            "candidates": pick(
                "None | (0, 2) | [1] | torch.tensor([0, 5])", "[7] | [] | 'x' | [0.5] | 7 | [-1] | ['a'] | [None]"
            )
        },
    ),
    "mean_corruption_error": calls(
        "mean_corruption_error",
        ResultCheck(number_in(0)),
        [
            pick(
                "{c: 0.5 for c in CORRUPTIONS} | {c: [0.1] * 5 for c in CORRUPTIONS}"
                " | dict.fromkeys([*CORRUPTIONS, 'clean'], 1)",
                "{} | None | 7 | 'x' | {c: 1.5 for c in CORRUPTIONS} | {c: nan for c in CORRUPTIONS}"
                " | {c: [0.1] * 4 for c in CORRUPTIONS} | {c: 'a' for c in CORRUPTIONS}"
                " | {c: None for c in CORRUPTIONS} | [0.5] * 15 | {c: [0.1, [2]] for c in CORRUPTIONS}"
                " | {c: 1j for c in CORRUPTIONS}",
            )
        ],
        {
            "baseline": pick(
                "'alexnet' | {c: 0.8 for c in CORRUPTIONS}",
                "'resnet' | None | 7 | {} | {c: 0 for c in CORRUPTIONS} | []",
            )
        },
    ),
    "input_gradient": calls(
        "input_gradient",
        ResultCheck(like_second),
        [
            pick("head | convnet", "None | 7 | 'resnet' | nn.Linear", "half_net | double_net"),
            only(BATCH, "pixels((2, 3, 8, 8), 'uint8')"),
            gradient_labels,
        ],
        {
            "output": a.choice("'log_probability' | 'logit'", "'prob'"),
            "denoiser": pick(
                "None | DiffAug(exact, differentiable=True) | nn.Identity()",
                "7 | 'x' | DiffAug(exact) | [] | (lambda x: None) | (lambda x: x.detach())",
            ),
        },
    ),
    "gradient_alignment": calls(
        "gradient_alignment",
        ResultCheck(lambda arguments, result: tensor_complaint(result, (2,))),
        [
            pick(
                [BATCH, NOISY],
                "None | 7 | pixels((2, 3, 8, 8)) | 'x' | [] | pixels((2, 3, 16, 16), 'complex64')",
                "pixels((2, 3, 16, 16), 'uint8')",
            ),
            only(NOISY),
        ],
        {"cosine": a.flag},
    ),
    "Jacobian": jacobian_calls(),
    "leading_directions": calls(
        "leading_directions",
        ResultCheck(directions_complaint),
        [
            pick("exact | exact | plain", "None | 7 | 'cifar10'"),
            pick(
                "pixels((3, 4, 4)) | pixels((3, 8, 8), values='normalised')",
                "pixels((2, 3, 16, 16)) | None | 'x' | pixels((16, 16)) | pixels((3, 8, 8), 'int64')",
            ),
            a.integer("0 | 100 | np.int64(500)", "1000 | -1"),
        ],
        {
            "k": a.integer("1 | 2 | np.int64(3)", "0 | -1 | 100000"),
            "iterations": a.integer("1 | 2 | np.int64(1)", "0 | -1"),
            "max_batch": a.max_batch,
            "generator": a.generator,
            "labels": pick("None"),
        },
    ).map(lambda call: call.with_keywords(k="1", iterations="1")),
}
