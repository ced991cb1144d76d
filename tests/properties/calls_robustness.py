"""Calls of what uses a classifier or a network in ``diffaug_transforms.robustness``: DDA, smoothing, OODDetector."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
from hypothesis import strategies as st

from . import arguments as a
from . import images
from .checks import AdaptCheck, BatchCheck, ResultCheck, tensor_complaint
from .expectations import image_expectation
from .names import CLASSES
from .values import Call, calls, mixed, only, pick

BATCH = "pixels((2, 3, 16, 16))"
batches = images.good_tensors(batched=True)
ENGINE = {"max_batch": a.max_batch, "dtype": a.dtype, "compile": a.off, "generator": a.generator}


def certificate_complaint(arguments: list[Any], result: Any) -> str | None:
    prediction, radius = result
    fits = isinstance(prediction, Integral) and prediction >= -1 and isinstance(radius, float) and 0 <= radius < np.inf
    return None if fits else f"{result} as certificate"


def single_image(arguments: list[Any]) -> bool | None:
    image = arguments[0]
    verdict = image_expectation(image, (3,))
    single = getattr(image, "ndim", 3) == 3 or (image.ndim == 4 and len(image) == 1)
    return verdict if single or verdict is False else (False if hasattr(image, "ndim") and image.ndim == 4 else None)


single_images = mixed(
    images.good_tensors(batched=False), images.good_tensors(batched=False), images.images, images.nonsense
)


def class_number(arguments: list[Any], result: Any) -> str | None:
    return None if isinstance(result, int) and -1 <= result < CLASSES else f"{result!r} instead of a class"


probability = a.number("0.001 | 0.5 | np.float32(0.1)", "0 | 1 | -1 | 2 | inf")
draws = a.integer("1 | 5 | 16 | np.int64(8)", "0 | -1")
methods = a.choice("'msp' | 'ash-b' | 'ash-p' | 'ash-s' | 'scale'", "'ash'")


def msp_without_percentile(call: Call) -> Call:
    """With the method msp a percentile is refused."""
    options = dict(call.options or ())
    clash = options.get("method") == "'msp'" and options.get("percentile", "None") != "None"
    return replace(call, good=False, bad=(*call.bad, "percentile with msp")) if clash else call


CALLS: dict[str, st.SearchStrategy[Call]] = {
    "DDA, images": calls("DDA(exact, num_steps=8)", AdaptCheck(), [images.wrapped]),
    "DDA, U-Net": calls("DDA(plain, num_steps=5)", AdaptCheck(), [batches]),
    "DDA, arguments": calls(
        "DDA",
        AdaptCheck(changes=False),
        [only(BATCH, "pixels((1, 3, 15, 8), 'uint8')")],
        first=a.networks,
        options={
            "start_timestep": a.integer("None | 1 | 500 | 999 | np.int64(9)", "0 | -1 | 1000"),
            "num_steps": a.integer("2 | 5 | np.int64(9)", "0 | 1 | -1 | 100000"),
            "guidance_scale": a.number("0 | 6 | 6.0 | np.float32(2)", "inf", "-1 | 1e30"),
            "downscale": a.integer("1 | 2 | 4 | np.int64(2)", "0 | -1", "1000"),
            "border": pick("'normalized'", "'x' | None | 7"),
            "checkpointing": a.off,
            "progress": pick("False", "None | 'x' | 7"),
            **ENGINE,
        },
    ).map(lambda call: call.with_options(num_steps="6")),
    "DenoisedSmoothing, one draw": calls("DenoisedSmoothing(head, plain)", BatchCheck("logits"), [images.wrapped]),
    "DenoisedSmoothing, arguments": calls(
        "DenoisedSmoothing",
        BatchCheck("logits"),
        [batches],
        first=a.classifier,
        options={
            "network": pick("plain | exact | null", "None | 7 | 'nonsense' | []"),
            "normalize": a.normalize,
            "sigma": a.number("0.25 | 0.5 | 1 | np.float32(0.3)", "0 | -1 | inf | 1e6"),
            "differentiable": pick("False", "None | 'x'"),
            "progress": pick("False", "None | 'x'"),
            **ENGINE,
        },
    ).map(lambda call: call.with_options(network="exact")),
    "DenoisedSmoothing.certify": calls(
        "DenoisedSmoothing(convnet, exact, 0.5).certify",
        ResultCheck(certificate_complaint, single_image),
        [single_images],
        {"n0": draws, "n": draws, "failure_probability": probability},
    ).map(lambda call: call.with_keywords(n0="4", n="8")),
    "DenoisedSmoothing.predict": calls(
        "DenoisedSmoothing(half_net, exact, 0.5).predict",
        ResultCheck(class_number, single_image),
        [single_images],
        {"n": draws, "failure_probability": probability},
    ),
    "certify_votes": calls(
        "smoothing.certify_votes",
        ResultCheck(certificate_complaint),
        [
            a.integer("0 | 3 | np.int64(2)", "-2"),
            a.integer("0 | 5 | 10 | np.int64(3)", "-1 | 11"),
            a.integer("10 | np.int64(10)", "0 | -1"),
            a.number("0.25 | 1", "0 | -1 | inf"),
            probability,
        ],
    ),
    "predict_votes": calls(
        "smoothing.predict_votes",
        ResultCheck(lambda arguments, result: None if isinstance(result, int) else "no int"),
        [
            pick(
                "torch.tensor([3, 5]) | torch.tensor([0, 0, 9]) | torch.tensor([10, 0])",
                "torch.tensor([3]) | torch.tensor([]) | None | 'x' | torch.tensor([0.5, 1])"
                " | torch.tensor([-1, 3]) | torch.rand(2, 2) | 7",
                "[3, 5] | torch.tensor([0, 0]) | np.array([3, 5])",
            ),
            probability,
        ],
    ),
    "OODDetector, images": calls("OODDetector(open_head)", BatchCheck("scores", range(1, 99)), [images.wrapped]),
    "OODDetector, arguments": calls(
        "OODDetector",
        BatchCheck("scores"),
        [batches],
        first=pick(
            "convnet | half_net | bfloat_net | double_net",
            "None | 'resnet18' | 7 | nn.Identity() | (lambda x: x) | nn.Linear | []",
        ),
        options={
            "layer": pick("None | '4'", "'' | '0' | 'nonsense' | 7 | [] | convnet | '2'"),
            "method": methods,
            "percentile": a.number("None | 0 | 50 | 90 | np.float64(85)", "-1 | 101 | inf", "100"),
            "normalize": a.normalize,
        },
    ).map(msp_without_percentile),
    "OODDetector.fit": calls(
        "(lambda data: OODDetector(convnet, method='react').fit(data)(pixels((2, 3, 16, 16))))",
        ResultCheck(lambda arguments, result: tensor_complaint(result, (2,))),
        [
            pick(
                "pixels((4, 3, 16, 16)) | [pixels((2, 3, 16, 16)), pixels((1, 3, 16, 16))]"
                " | [(pixels((2, 3, 16, 16)), torch.arange(2))] | torch.rand(5, 8)",
                "None | 7 | [] | 'x' | pixels((0, 3, 16, 16)) | [7] | ['a'] | [None] | pixels((3,))"
                " | torch.full((2, 8), nan) | pixels((2, 3, 16, 16), values='nan') | object()"
                " | [()] | {}",
                "torch.rand(5, 9) | [{'image': pixels((2, 3, 16, 16))}] | [[picture(), picture()]]",
            )
        ],
    ),
}
