"""Calls of what stands in ``diffaug_transforms.robustness``."""

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
from .checks import AdaptCheck, BatchCheck, ResultCheck, image_complaint, like_second, number_in, tensor_complaint
from .expectations import image_expectation
from .names import CLASSES
from .values import Call, calls, only, pick

BATCH = "pixels((2, 3, 16, 16))"
NOISY = "pixels((2, 3, 16, 16), values='normalised')"
batches = images.good_tensors(batched=True)
ENGINE = {"max_batch": a.max_batch, "dtype": a.dtype, "compile": a.off, "generator": a.generator}

scores = pick(
    ["[0.1, 0.4]", "torch.rand(5)", "np.random.rand(9)", "(1, 2, 3)", "torch.rand(3).half()", "[float('inf'), 0]", "torch.arange(3)",
     "pixels((4,), 'float32', 'unit', 'grad')", "[True, False]"],
    ["[]", "torch.rand(2, 2)", "None", "'scores'", "['a', 'b']", "[float('nan')]", "0.5", "[None]", "{}", "torch.rand(0)", "[[1, 2], [3]]",
     "[1j]", "torch.tensor([1j])", "object()", "{1, 2}", "np.array([None])"],
    ["['1', '2']", "range(3)", "torch.tensor([True])"],
)  # fmt: skip


def certificate_complaint(arguments: list[Any], result: Any) -> str | None:
    prediction, radius = result
    fits = isinstance(prediction, int) and prediction >= -1 and isinstance(radius, float) and 0 <= radius < np.inf
    return None if fits else f"{result} as certificate"


def single_image(arguments: list[Any]) -> bool | None:
    image = arguments[0]
    verdict = image_expectation(image, (3,))
    single = getattr(image, "ndim", 3) == 3 or (image.ndim == 4 and len(image) == 1)
    return verdict if single or verdict is False else (False if hasattr(image, "ndim") and image.ndim == 4 else None)


single_images = st.one_of(
    images.good_tensors(batched=False), images.good_tensors(batched=False), images.images, images.nonsense
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


def class_number(arguments: list[Any], result: Any) -> str | None:
    return None if isinstance(result, int) and -1 <= result < CLASSES else f"{result!r} instead of a class"


def directions_complaint(arguments: list[Any], result: Any) -> str | None:
    shape = tuple(arguments[1].shape)
    return tensor_complaint(result[0], (None,)) or tensor_complaint(result[1], (None, *shape))


probability = a.number("0.001 0.5 np.float32(0.1)", "0 1 -1 2 float('inf')")
draws = a.integer("1 5 16 np.int64(8)", "0 -1")
gradient_labels = pick(["[0, 6]", "torch.tensor([3, 3])", "np.array([1, 2])", "(1, 2)"],
                       [code for code in images.BAD_LABELS if "0, 5" not in code] + ["None", "[0, 7]"])  # fmt: skip
methods = a.choice("msp ash-b ash-p ash-s scale", "'ash'")
x_t = pick([NOISY, "pixels((1, 3, 8, 16))", "pixels((2, 3, 16, 16), 'float64', 'normalised')"],
           ["pixels((3, 16, 16))", "pixels((2, 3, 15, 16))", "pixels((2, 1, 16, 16))", "None", "'x'", "7",
            "pixels((2, 3, 16, 16), 'int64')", "array((2, 3, 16, 16), 'float32')", "[]", "pixels((2, 3, 16, 16), 'complex64')"],
           ["pixels((2, 3, 16, 16), values='nan')"])  # fmt: skip
jacobian_steps = pick(
    ["torch.tensor([0, 999])"],
    [
        "torch.tensor([0, 1000])",
        "torch.tensor([1, 2, 3])",
        "torch.tensor([0.5, 1])",
        "None",
        "'x'",
        "torch.tensor([-1, 0])",
    ],
    ["7", "[3, 4]"],
)


@st.composite
def jacobian_calls(draw: st.DrawFn) -> Call:
    function = draw(st.sampled_from(("jacobian_vector_product", "vector_jacobian_product", "posterior_covariance")))
    network = pick(["plain", "exact"], ["None", "'cifar10'", "Denoiser(plain)", "7"])
    vectors = pick([NOISY], ["None", "7", "pixels((1, 3, 16, 16))", "pixels((2, 3, 16, 16), 'int64')", "'v'", "[]"])
    x = draw(st.sampled_from((only(NOISY), x_t)))
    call = draw(calls(function, ResultCheck(like_second), [network, x, jacobian_steps, vectors]))
    fits = call.arguments[1] == NOISY or call.good is False
    return call if fits else replace(call, good=None)


def msp_without_percentile(call: Call) -> Call:
    """With the method msp a percentile is refused."""
    options = dict(call.options or ())
    clash = options.get("method") == "'msp'" and options.get("percentile", "None") != "None"
    return replace(call, good=False, bad=(*call.bad, "percentile with msp")) if clash else call


CALLS: dict[str, st.SearchStrategy[Call]] = {
    "DDA, images": calls("DDA(exact, num_steps=8)", AdaptCheck(), [images.wrapped]),
    "DDA, U-Net": calls("DDA(plain, num_steps=5)", AdaptCheck(), [batches]),
    "DDA, arguments": calls(
        "DDA", AdaptCheck(changes=False), [only(BATCH, "pixels((1, 3, 15, 8), 'uint8')")],
        first=a.networks.filter(lambda value: not value.code.startswith("Denoiser")),
        options={
            "start_timestep": a.integer("None 1 500 999 np.int64(9)", "0 -1 1000"), "num_steps": a.integer("2 5 np.int64(9)", "0 1 -1 100000"),
            "guidance_scale": a.number("0 6 6.0 np.float32(2)", "float('inf')", "-1 1e30"), "downscale": a.integer("1 2 4 np.int64(2)", "0 -1", "1000"),
            "checkpointing": a.off, "progress": pick(["False"], ["None", "'x'", "7"]), **ENGINE,
        },
    ).map(lambda call: call.with_options(num_steps="6")),
    "DenoisedSmoothing, one draw": calls("DenoisedSmoothing(head, plain)", BatchCheck("logits"), [images.wrapped]),
    "DenoisedSmoothing, arguments": calls(
        "DenoisedSmoothing", BatchCheck("logits"), [batches], first=a.classifier,
        options={"network": pick(["plain", "exact", "null", "Denoiser(exact)"], ["None", "7", "'nonsense'", "[]"]), "normalize": a.normalize,
                 "sigma": a.number("0.25 0.5 1 np.float32(0.3)", "0 -1 float('inf') 1e6"), "differentiable": pick(["False"], ["None", "'x'"]),
                 "progress": pick(["False"], ["None", "'x'"]), **ENGINE},
    ).map(lambda call: call.with_options(network="exact")),
    "DenoisedSmoothing.certify": calls(
        "DenoisedSmoothing(convnet, exact, 0.5).certify", ResultCheck(certificate_complaint, single_image), [single_images], {"n0": draws, "n": draws, "failure_probability": probability}
    ).map(lambda call: call.with_keywords(n0="4", n="8")),
    "DenoisedSmoothing.predict": calls(
        "DenoisedSmoothing(half_net, exact, 0.5).predict", ResultCheck(class_number, single_image), [single_images], {"n": draws, "failure_probability": probability}
    ),
    "certify_votes": calls(
        "smoothing.certify_votes", ResultCheck(certificate_complaint),
        [a.integer("0 3 np.int64(2)", "-2"), a.integer("0 5 10 np.int64(3)", "-1 11"), a.integer("10 np.int64(10)", "0 -1"), a.number("0.25 1", "0 -1 float('inf')"), probability],
    ),
    "predict_votes": calls(
        "smoothing.predict_votes", ResultCheck(lambda arguments, result: None if isinstance(result, int) else "no int"),
        [pick(["torch.tensor([3, 5])", "torch.tensor([0, 0, 9])", "torch.tensor([10, 0])"], ["torch.tensor([3])", "torch.tensor([])", "None", "'x'", "torch.tensor([0.5, 1])", "torch.tensor([-1, 3])", "torch.rand(2, 2)", "7"], ["[3, 5]", "torch.tensor([0, 0])", "np.array([3, 5])"]), probability],
    ),
    "OODDetector, images": calls("OODDetector(convnet)", BatchCheck("scores"), [images.wrapped]),
    "OODDetector, arguments": calls(
        "OODDetector", BatchCheck("scores"), [batches],
        first=pick(["convnet", "half_net", "bfloat_net", "double_net"], ["None", "'resnet18'", "7", "nn.Identity()", "(lambda x: x)", "nn.Linear", "[]"]),
        options={"layer": pick(["None", "'4'"], ["''", "'0'", "'nonsense'", "7", "[]", "convnet", "'2'"]), "method": methods, "percentile": a.number("None 0 50 90 np.float64(85)", "-1 101 float('inf')", "100"), "normalize": a.normalize},
    ).map(msp_without_percentile),
    "OODDetector.fit": calls(
        "(lambda data: OODDetector(convnet, method='react').fit(data)(pixels((2, 3, 16, 16))))", ResultCheck(lambda arguments, result: tensor_complaint(result, (2,))),
        [pick(["pixels((4, 3, 16, 16))", "[pixels((2, 3, 16, 16)), pixels((1, 3, 16, 16))]", "[(pixels((2, 3, 16, 16)), torch.arange(2))]", "torch.rand(5, 8)"],
              ["None", "7", "[]", "'x'", "pixels((0, 3, 16, 16))", "[7]", "['a']", "[None]", "pixels((3,))", "torch.full((2, 8), float('nan'))", "pixels((2, 3, 16, 16), values='nan')", "object()", "pixels((2, 1, 16, 16))", "[()]", "{}"],
              ["torch.rand(5, 9)", "[{'image': pixels((2, 3, 16, 16))}]", "[[picture(), picture()]]"])],
    ),
    **{name: calls(name, ResultCheck(number_in(0, 1)), [scores, scores]) for name in ("auroc", "fpr95", "aupr")},
    "corrupt, images": calls("(lambda image: corrupt(image, 'gaussian_noise', 3, seed=0))", ResultCheck(corrupted, corruptible), [st.one_of(images.images, images.images, images.nonsense)]),
    "corrupt, arguments": calls(
        "corrupt", ResultCheck(corrupted), [only("pixels((2, 3, 16, 16), 'uint8')", "picture()", "pixels((3, 17, 32), 'uint8')"), a.choice(" ".join(CORRUPTIONS), "'frosting'"), a.severity],
        {"corruption_set": a.choice("cifar10-c imagenet-c", "'cifar'"), "first": a.integer("0 5 np.int64(3)", "-1"),
         "seed": pick(["None", "0", "7", "np.int64(3)", "seeded()", "10**30"], ["-1", "0.5", "True", "'x'", "[]", "object()", a.NAN])},
    ),
    "Corrupted": calls(
        "(lambda *a, **k: Corrupted(training_items, *a, **k)[0][0])", ResultCheck(lambda arguments, result: tensor_complaint(result, (3, 32, 32), None)),
        [a.choice("fog contrast"), a.severity, ], {"seed": a.integer("0 3", "-1"), "corruption_set": a.choice("cifar10-c imagenet-c")},
    ).map(lambda call: call.with_keywords(corruption_set="'cifar10-c'")),
    "random_subset": calls("(lambda n, seed: random_subset(training_items, n, seed)[0])", ResultCheck(lambda arguments, result: None), [a.integer("1 2 5 np.int64(2)", "0 -1"), a.integer("0 3", "", "-1 10**30")]),
    "correct": calls(
        "correct", ResultCheck(lambda arguments, result: tensor_complaint(result, (4,), None)),
        [pick(["pixels((4, 7))", "pixels((4, 7), 'float16')"], ["None", "pixels((4,))", "7", "'x'", "[[1]]", "pixels((4, 0))", "pixels((4, 7), 'complex64')"], ["pixels((4, 7), values='nan')"]),
         pick(["torch.arange(4)", "torch.tensor([[0, 1], [2, -1], [3, 3], [4, -1]])"], ["torch.arange(3)", "torch.tensor([0, 1, 2, 7])", "None", "'x'", "torch.tensor([0.5] * 4)", "7", "torch.zeros(4, 2, 2).long()"], ["[0, 1, 2, 3]", "np.arange(4)"])],
        {"candidates": pick(["None", "(0, 2)", "[1]", "torch.tensor([0, 5])"], ["[7]", "[]", "'x'", "[0.5]", "7", "[-1]", "['a']", "[None]"])},
    ),
    "mean_corruption_error": calls(
        "mean_corruption_error", ResultCheck(number_in(0)),
        [pick(["{c: 0.5 for c in CORRUPTIONS}", "{c: [0.1] * 5 for c in CORRUPTIONS}", "dict.fromkeys([*CORRUPTIONS, 'clean'], 1)"],
              ["{}", "None", "7", "'x'", "{c: 1.5 for c in CORRUPTIONS}", "{c: float('nan') for c in CORRUPTIONS}", "{c: [0.1] * 4 for c in CORRUPTIONS}", "{c: 'a' for c in CORRUPTIONS}", "{c: None for c in CORRUPTIONS}", "[0.5] * 15", "{c: [0.1, [2]] for c in CORRUPTIONS}", "{c: 1j for c in CORRUPTIONS}"])],
        {"baseline": pick(["'alexnet'", "{c: 0.8 for c in CORRUPTIONS}"], ["'resnet'", "None", "7", "{}", "{c: 0 for c in CORRUPTIONS}", "[]"])},
    ),
    "input_gradient": calls(
        "input_gradient", ResultCheck(like_second), [pick(["head", "convnet"], ["None", "7", "'resnet'", "nn.Linear"], ["half_net", "double_net"]), only(BATCH, "pixels((2, 3, 8, 8), 'uint8')"), gradient_labels],
        {"output": a.choice("log_probability logit", "'prob'"), "denoiser": pick(["None", "DiffAug(exact, differentiable=True)", "nn.Identity()"], ["7", "'x'", "DiffAug(exact)", "[]", "(lambda x: None)", "(lambda x: x.detach())"])},
    ),
    "gradient_alignment": calls(
        "gradient_alignment", ResultCheck(lambda arguments, result: tensor_complaint(result, (2,))),
        [pick([BATCH, NOISY], ["None", "7", "pixels((2, 3, 8, 8))", "'x'", "[]", "pixels((2, 3, 16, 16), 'complex64')"], ["pixels((2, 3, 16, 16), 'uint8')"]), only(NOISY)], {"cosine": a.flag}),
    "Jacobian": jacobian_calls(),
    "leading_directions": calls(
        "leading_directions", ResultCheck(directions_complaint),
        [pick(["exact", "exact", "plain"], ["None", "7", "'cifar10'"]), pick(["pixels((3, 4, 4))", "pixels((3, 8, 8), values='normalised')"], ["pixels((2, 3, 16, 16))", "None", "'x'", "pixels((16, 16))", "pixels((3, 8, 8), 'int64')"]),
         a.integer("0 100 np.int64(500)", "1000 -1")],
        {"k": a.integer("1 2 np.int64(3)", "0 -1 100000"), "iterations": a.integer("1 2 np.int64(1)", "0 -1"), "max_batch": a.max_batch, "generator": a.generator, "labels": pick(["None"])},
    ).map(lambda call: call.with_keywords(k="1", iterations="1")),
}  # fmt: skip
