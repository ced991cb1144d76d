"""Calls of what stands in ``diffaug_transforms.transforms``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import PIL.Image
from hypothesis import strategies as st
from torch import Tensor

from . import arguments as a
from . import images
from .checks import BatchCheck, ResultCheck, SampleCheck, finite_scalar, range_complaint, tensor_complaint
from .expectations import count_images, image_expectation
from .names import CLASSES
from .values import Call, Value, both, calls, mixed, only, pick

#: Good samples, so that the constructor's arguments alone decide.
good_samples = mixed(images.good_tensors(), st.just("(pixels((2, 3, 16, 16)), 'path')"))
batches = images.good_tensors(batched=True)
own_getter = pick("'default' | None | (lambda inputs: inputs[1])", "3 | 'labels' | [] | object() | True | '' | nan")

DIFFAUG: dict[str, st.SearchStrategy[Value]] = {
    "timesteps": a.timesteps,
    "p": a.probability,
    "max_batch": a.max_batch,
    "dtype": a.dtype,
    "compile": a.off,
    "differentiable": pick("False", "None | 1 | 'yes'"),
    "conditional": pick("False", "None | 1 | 'yes' | []"),
    "labels_getter": own_getter,
    "generator": a.generator,
}
ENSEMBLE = {
    name: DIFFAUG[name] for name in ("timesteps", "max_batch", "dtype", "compile", "differentiable", "generator")
}
any_transform = pick(
    "AugMix() | DeepAugment() | v2.RandomHorizontalFlip() | Brightness() | v2.Compose([AugMix()]) | nn.Identity()",
    "None | 7 | 'augmix' | [AugMix()] | DiffAug(plain) | object() | pixels((3, 16, 16)) | nan | AugMix",
    "v2.Compose([DiffAug(plain)])",
)
diffaug = pick(
    "None | DiffAug(plain) | DiffAug(exact, p=0.5)", "AugMix() | 7 | DiffAug | [] | nan", "plain | 'nonsense'"
)
clean = pick("None | v2.Identity() | v2.RandomHorizontalFlip()", "7 | 'crop' | [] | object() | nan")
recipes = pick(
    "'baseline' | 'diffaug' | 'augmix' | 'augmix+diffaug' | 'deepaugment' | 'deepaugment+augmix+diffaug'"
    " | 'diffaug+augmix' | 'augmix+deepaugment'",
    "'nonsense' | '' | None | 7 | [] | 'diffaug+' | '+' | 'augmix+augmix' | b'augmix' | object() | {} | nan",
    "'AugMix'",
)
deepaugment = pick("None | DeepAugment() | [DeepAugment()]", "'noise2net' | AugMix() | 7 | [] | DeepAugment")


@dataclass(frozen=True)
class LabelledCheck(SampleCheck):
    """A conditional transform of two images and their labels. The Value of the labels says what must happen."""

    changes: bool = True

    def expects(self, arguments: list[Any]) -> bool | None:
        return True


def views_complaint(arguments: list[Any], views: Any) -> str | None:
    """Named views, each with values as images have them if the image has."""
    if not isinstance(views, dict) or "clean" not in views:
        return f"{type(views).__name__} instead of named views"
    good = image_expectation(arguments[0], (3,))
    wrong = [name for name, view in views.items() if not isinstance(view, Tensor) or (good and range_complaint(view))]
    return f"wrong views: {', '.join(wrong)}" if wrong else None


def views_expectation(arguments: list[Any]) -> bool | None:
    """Single images and plain batches must be taken. Without an augmentation even wrong images pass."""
    image = arguments[0]
    if not isinstance(image, (Tensor, np.ndarray, PIL.Image.Image)):
        return None if isinstance(image, (list, tuple, dict)) else False
    return True if image_expectation(image, (3,)) and getattr(image, "ndim", 3) <= 4 else None


views_check = ResultCheck(views_complaint, views_expectation)


@st.composite
def view_calls(draw: st.DrawFn) -> Call:
    """compose_with(augmentations..., diffaug=...)(images)."""
    image = mixed(images.good_images, images.good_images, images.arrays(), images.nonsense)
    augmentations = [draw(any_transform) for _ in range(draw(st.integers(0, 2)))]
    call = draw(
        calls("compose_with", views_check, [image], options={"diffaug": diffaug, "clean": clean, "original": clean})
    )
    return replace(
        call,
        options=(*(("", value.code) for value in augmentations), *(call.options or ())),
        good=both([call.good, *(value.good for value in augmentations)]),
        bad=(*call.bad, *(value.code for value in augmentations if value.good is False)),
    )


@st.composite
def recipe_calls(draw: st.DrawFn) -> Call:
    options = {"diffaug": diffaug, "deepaugment": deepaugment, "clean": clean}
    call = draw(
        calls(
            "(lambda *a, **k: recipe(*a, **k)[0])",
            views_check,
            [only("pixels((2, 3, 16, 16))")],
            first=recipes,
            options=options,
        )
    )
    # The default network has 32 pixels and is slow.
    return call.with_options(diffaug="DiffAug(plain)")


noise_levels = pick(
    "None | 0 | 0.1 | 2 | np.float32(0.1) | torch.tensor([0.1, 0.0]) | torch.tensor(0.2) | torch.tensor([1, 2])",
    "-0.1 | inf | 10**400 | torch.tensor([0.1]) | torch.tensor([0.1, -1]) | torch.tensor([nan, 0.1]) | 'half' | [0.5]"
    " | torch.ones(2, 1) | torch.tensor([True, False]) | torch.tensor([1j, 1]) | {} | 1j | object() | nan | [] | b'1'"
    " | np.array([0.1, 0.2])",
    "True",
)


def levels_complaint(arguments: list[Any], levels: Any) -> str | None:
    """One finite number, at least 0, for each image."""
    return tensor_complaint(levels, (count_images(arguments[0]),)) or (
        "a level below 0" if len(levels) and levels.min() < 0 else None
    )


def levels_expectation(arguments: list[Any]) -> bool | None:
    """Good images must be taken if both sides have two pixels. Other numbers of channels may be."""
    image = arguments[0]
    verdict = image_expectation(image, range(1, 99))
    if not verdict or not isinstance(image, (Tensor, np.ndarray, PIL.Image.Image)):
        return verdict
    sides = image.size if isinstance(image, PIL.Image.Image) else image.shape[-2:]
    sides = image.shape[-3:-1] if isinstance(image, np.ndarray) else sides
    return None if min(sides) < 2 or image_expectation(image, (3,)) is not True else True


logits = pick(
    [
        f"{{'clean': pixels((4, {CLASSES}), values='normalised')}}",
        f"{{name: pixels((4, {CLASSES}), values='normalised') for name in ('clean', 'augmix1', 'augmix2', 'diffaug')}}",
        f"{{name: pixels((4, {CLASSES}), 'bfloat16', 'normalised') for name in ('clean', 'deepaugment')}}",
    ],
    "{} | None | [] | pixels((4, 7)) | {'clean': None} | {'diffaug': pixels((4, 7))}"
    " | {'clean': [1, 2]} | {'clean': pixels((4, 7)), 'augmix': pixels((3, 7))}"
    " | {'clean': pixels((4, 7)), 'diffaug': pixels((4, 6))} | {'clean': pixels((4,))}"
    " | {'clean': pixels((4, 7, 2))} | {'clean': pixels((4, 7), 'int64')} | 7 | 'clean'"
    " | {'clean': pixels((4, 0))} | {1: pixels((4, 7)), 'clean': pixels((4, 7))}",
)
targets = pick(
    "torch.arange(4) | torch.tensor([6, 0, 0, 1]) | pixels((4, 7)).softmax(1)",
    "torch.arange(3) | torch.tensor([0, 1, 2, 7]) | torch.tensor([0, 1, 2, -1]) | None | 'cat'"
    " | pixels((4,)) | pixels((4, 6)) | 3 | torch.tensor([]) | {} | torch.zeros(4, 2).long()",
    "torch.arange(4, dtype=torch.int32) | [0, 1, 2, 3] | torch.tensor([True, False, True, False]) "
    " | np.arange(4) | torch.zeros(4, 7).long()",
)
#: Samples for a network of five classes without a null class.
labelled_samples = pick(
    "{'image': pixels((2, 3, 16, 16)), 'label': torch.tensor([1, 2])}"
    " | (pixels((2, 3, 16, 16)), torch.tensor([0, 4]), 'x') | (picture(), 3)"
    " | (pixels((3, 16, 16)), torch.tensor(3)) | {'labels': torch.tensor([3]), 'image': picture()}"
    " | {'image': [picture(), picture('RGB', 8, 24)], 'label': [3, 4]}"
    " | ([picture(), picture()], torch.tensor([0, 1]))",
    "pixels((2, 3, 16, 16)) | picture() | {'image': picture(), 'caption': 'cat'} | (picture(), 5) | (picture(), None)"
    " | {'image': [picture(), picture()], 'label': [3]} | ([picture(), picture()], [3, 55])"
    " | (pixels((2, 3, 16, 16)), 3) | (picture(), 'cat') | (picture(), pixels((1, 5)))"
    " | (picture(), {'boxes': boxes(), 'labels': torch.tensor([55])})",
    "(picture(), {'boxes': boxes(), 'labels': torch.tensor([3])}) | (picture(), [3]) | (picture(), picture(), 3)",
)
weight = a.number("0 | 1 | 0.5 | 12 | np.float32(2)", "-1 | -0.1 | inf", "10**400")
kinds = pick(
    "None | {} | {'augmix1': 'augmented'} | {'clean': 'clean'}",
    "7 | 'clean' | {'diffaug': 'nonsense'} | {'clean': 3} | [1]",
)

CALLS: dict[str, st.SearchStrategy[Call]] = {
    "DiffAug, samples": calls("DiffAug(plain, timesteps=range(200, 700))", SampleCheck(), [images.everything]),
    "DiffAug, grey": calls(
        "DiffAug(grey, timesteps=[400])",
        SampleCheck((1,)),
        [mixed(images.good_tensors(channels=1), images.odd_pictures, images.odd_tensors(), images.arrays())],
    ),
    "DiffAug, several inputs": calls(
        "DiffAug(exact, timesteps=[400])", SampleCheck(), [images.images, mixed(images.everything, images.nonsense)]
    ),
    "DiffAug, p": calls("DiffAug(exact, p=0.5)", SampleCheck(changes=False, detached=False), [images.everything]),
    "DiffAug, arguments": calls(
        "DiffAug", SampleCheck(changes=False, detached=False), [good_samples], first=a.networks, options=DIFFAUG
    ),
    "DiffAug, a Denoiser": calls(
        "DiffAug",
        SampleCheck(changes=False, detached=False),
        [good_samples],
        first=only("Denoiser(plain)", "Denoiser(exact, max_batch=1)"),
        options={name: DIFFAUG[name] for name in ("timesteps", "p", "generator")},
    ),
    "DiffAug, labels": calls(
        "DiffAug(classes, conditional=True, timesteps=[400])",
        LabelledCheck(),
        [
            st.just("pixels((2, 3, 16, 16))"),
            pick(images.GOOD_LABELS, [*images.BAD_LABELS, "None"], images.LISTED_LABELS),
        ],
    ),
    "DiffAug, labels of a null class": calls(
        "DiffAug(null, conditional=True, timesteps=[400])",
        LabelledCheck(),
        [
            st.just("pixels((2, 3, 16, 16))"),
            pick(images.GOOD_LABELS, images.BAD_LABELS, [*images.LISTED_LABELS, "None"]),
        ],
    ),
    "DiffAug, labels in samples": calls(
        "DiffAug(classes, conditional=True, timesteps=[400])", LabelledCheck(), [labelled_samples]
    ),
    "DiffAug, labels left alone": calls(
        "DiffAug(null, timesteps=[400])",
        SampleCheck(),
        [st.just("pixels((2, 3, 16, 16))"), only(*images.GOOD_LABELS, *images.BAD_LABELS, "None")],
    ),
    "AugMix, samples": calls("AugMix()", SampleCheck((1, 3), changes=False, detached=False), [images.everything]),
    "AugMix, arguments": calls(
        "AugMix",
        SampleCheck((1, 3), changes=False, detached=False),
        [good_samples],
        options={
            "severity": a.number("1 | 3 | 10 | 0.1 | np.float32(2)", "0 | 0.05 | 11 | -1 | inf"),
            "width": a.integer("1 | 3 | np.int64(2)", "0 | -1"),
            "depth": a.integer("None | 1 | 2 | np.int64(3)", "0 | -1"),
        },
    ),
    "DeepAugment, samples": calls("DeepAugment()", SampleCheck(), [images.everything]),
    "DeepAugment, arguments": calls(
        "DeepAugment",
        SampleCheck(changes=False),
        [good_samples],
        options={
            "network": pick("'noise2net'", "'edsr2' | '' | None | 7 | [] | plain | b'edsr' | {}"),
            "weights": pick("None", "'file.pt' | 7 | Path('x') | []"),
            "size": pick("None", "16 | 0 | -1 | '16' | 1.5"),
            "max_epsilon": a.number("0 | 0.3 | 1 | np.float32(0.2)", "-0.1 | inf", "1e30"),
            "generator": a.generator,
        },
    ),
    "DiffAugEnsemble, images": calls("DiffAugEnsemble(head, plain)", BatchCheck(), [images.wrapped]),
    "DiffAugEnsemble, raw images alone": calls(
        "DiffAugEnsemble(head, plain, timesteps=0)", BatchCheck(), [images.wrapped]
    ),
    "DiffAugEnsemble.predict_proba": calls(
        "DiffAugEnsemble(convnet, exact).predict_proba", BatchCheck("proba"), [images.wrapped]
    ),
    "DiffAugEnsemble, noise": calls(
        "DiffAugEnsemble(head, exact, timesteps=[0, 50])",
        BatchCheck(),
        [
            only("pixels((2, 3, 16, 16))"),
            pick(
                "None | torch.randn(1, 2, 3, 16, 16)",
                "torch.randn(2, 2, 3, 16, 16) | torch.randn(2, 3, 16, 16) | 7 | 'noise' | []"
                " | torch.randn(1, 2, 3, 16, 16).long() | np.zeros((1, 2, 3, 16, 16)) | seeded()",
                "torch.randn(1, 2, 3, 16, 16).double() | torch.randn(1, 2, 3, 16, 16).half()",
            ),
        ],
    ),
    "DiffAugEnsemble, arguments": calls(
        "DiffAugEnsemble",
        BatchCheck(),
        [batches],
        first=a.classifier,
        options={"network": a.networks, "normalize": a.normalize, **ENSEMBLE},
    ).map(lambda call: call.with_options(network="exact")),
    "AnytimeEnsemble": calls("AnytimeEnsemble(DiffAugEnsemble(head, exact))", BatchCheck(), [images.wrapped]),
    "AnytimeEnsemble, arguments": calls(
        "AnytimeEnsemble",
        BatchCheck(),
        [batches],
        first=pick("DiffAugEnsemble(head, exact)", "head | None | 'ensemble' | DiffAugEnsemble | 7"),
        options={
            "confidence": a.number("None | 1 | 0.5 | np.float32(0.9)", "0 | -1 | 1.1 | inf"),
            "min_views": a.integer("1 | 2 | 5 | np.int64(2)", "0 | -1"),
        },
    ),
    # A level is given, because images of one pixel have no noise that could be estimated.
    "Purify, samples": calls("Purify(plain, sigma=0.2)", SampleCheck(detached=False), [images.everything]),
    "Purify, estimated": calls(
        "Purify(exact)",
        SampleCheck(changes=False, detached=False),
        [only("pixels((2, 3, 16, 16))", "picture()", "array((7, 2, 3))", "[picture(), picture('RGB', 5, 2)]")],
    ),
    "Purify, arguments": calls(
        "Purify",
        SampleCheck(changes=False, detached=False),
        [only("pixels((2, 3, 16, 16))", "(pixels((2, 3, 8, 24), 'uint8'), 'path')")],
        first=a.networks,
        options={
            "sigma": noise_levels,
            "gate": pick("None | 0 | 1.5 | np.float32(0.1)", f"-1 | 25 | inf | 10**400 | {a.NO_NUMBERS}", "True"),
            **{name: DIFFAUG[name] for name in ("max_batch", "dtype", "compile", "differentiable")},
        },
    ),
    "estimate_sigma": calls(
        "estimate_sigma",
        ResultCheck(levels_complaint, levels_expectation),
        [mixed(images.good_images, images.odd_tensors(), images.odd_pictures, images.arrays(), images.nonsense)],
    ),
    "SelfEnsemble, images": calls(
        "SelfEnsemble(open_head, nn.Identity())", BatchCheck(channels=range(1, 99)), [images.wrapped]
    ),
    "SelfEnsemble, arguments": calls(
        "SelfEnsemble",
        BatchCheck(),
        [batches],
        first=a.classifier.map(lambda value: Value(f"{value.code}, nn.Identity()", value.good)),
        options={"normalize": a.normalize},
    ),
    "SelfEnsemble, adapt": calls(
        "SelfEnsemble",
        BatchCheck(),
        [only("pixels((2, 3, 16, 16))", "pixels((0, 3, 16, 16))")],
        first=only("head, DiffAug(exact)", "head, nn.Identity()", "convnet, (lambda x: (x * 255).byte())"),
    ),
    "SelfEnsemble, bad adapt": calls(
        "SelfEnsemble",
        BatchCheck(),
        [only("pixels((2, 3, 16, 16))")],
        first=pick(
            bad="head, None | head, 7 | head, 'dda' | head, (lambda x: None) | head, (lambda x: x[:1])"
            " | head, (lambda x: x * 9) | head, (lambda x: x[..., :8]) | head, (lambda x: 'x')"
            " | head, (lambda x: [x])"
        ),
    ),
    "compose_with": view_calls(),
    "recipe": recipe_calls(),
    "ViewsLoss": calls("ViewsLoss()", ResultCheck(finite_scalar), [logits, targets]),
    "ViewsLoss, empty": calls(
        "ViewsLoss()",
        ResultCheck(finite_scalar),
        [
            only("{'clean': pixels((0, 7)), 'diffaug': pixels((0, 7)), 'augmix': pixels((0, 7))}"),
            only("torch.zeros(0).long()", "pixels((0, 7))"),
        ],
    ),
    "ViewsLoss, arguments": calls(
        "ViewsLoss",
        ResultCheck(finite_scalar),
        [st.just("{name: pixels((4, 7)) for name in ('clean', 'augmix1', 'diffaug')}"), st.just("torch.arange(4)")],
        options={**dict.fromkeys(("clean", "diffaug", "deepaugment", "augmented", "jsd"), weight), "kinds": kinds},
    ),
    "views.per_batch": calls(
        "compose_with(diffaug=DiffAug(exact)).per_batch",
        ResultCheck(views_complaint),
        [
            pick(
                "{'clean': pixels((2, 3, 16, 16))}"
                " | {'clean': pixels((2, 3, 16, 16)), 'original': pixels((2, 3, 20, 20))}",
                "{} | None | pixels((2, 3, 16, 16)) | {'clean': None} | {'clean': 'x'}"
                " | {'original': pixels((2, 3, 16, 16))} | [] | 7",
            )
        ],
    ),
}
