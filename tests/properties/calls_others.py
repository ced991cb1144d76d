"""Calls of what stands in ``guidance``, ``classifiers`` and ``figures``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import PIL.Image
from hypothesis import strategies as st
from torch import Tensor, nn

from . import arguments as a
from . import images
from .calls_score import BAD_STEPS, GOOD_STEPS, X_T, steps, x_t
from .checks import BatchCheck, ResultCheck, instance_of, tensor_complaint
from .names import CLASSES
from .values import Call, calls, only, pick

TWO_IMAGES = "pixels((2, 3, 32, 32))"
#: A noisy classifier does not know the number of timesteps.
noisy_steps = pick(GOOD_STEPS, [code for code in BAD_STEPS if "1000" not in code])
noisy_images = x_t.filter(lambda value: "(2, 3, 8, 24)" not in value.code)
encoders = pick("encoder", "augmented_encoder | None | 'encoder' | 7 | nn.Identity() | plain")
augmented_encoders = pick("augmented_encoder", "encoder | None | 'encoder' | 7 | nn.Identity()")
class_names = pick(
    "None | list('abcde') | ('a', 'b', 'c', 'd', 'e')", "['a'] | [] | 7 | [1, 2, 3, 4, 5] | {}", "'abcde'"
)
guide_labels = pick(
    "[0, 6] | torch.tensor([3, 3]) | (1, 2) | np.array([1, 2])",
    [*(code for code in images.BAD_LABELS if "0, 5" not in code), "[0, 7]", "None"],
)
model_names = pick(
    "'cifar_resnet-8' | 'resnet18' | 'squeezenet1_1'",
    "'' | 'nonsense' | None | 7 | 'cifar_resnet-0' | 'cifar_resnet-' | 'cifar_resnet--3' | 'timm/'"
    " | 'timm/nonsense' | [] | b'resnet18' | nn.Linear | 'resnet18 ' | 'ResNet18x' | 'raft_large'"
    " | 'cifar_resnet-8.5'",
)


def encoder_logits(arguments: list[Any], result: Any) -> str | None:
    finite = all(bool(argument.isfinite().all()) for argument in arguments if isinstance(argument, Tensor))
    return tensor_complaint(result, (2, 5), finite=finite)


def guided(arguments: list[Any], result: Any) -> str | None:
    return tensor_complaint(result, (2, 3, 16, 16))


def picture_complaint(arguments: list[Any], result: Any) -> str | None:
    fits = isinstance(result, PIL.Image.Image) and result.mode == "RGB"
    return None if fits else f"{type(result).__name__} instead of a picture"


def logits_of_two(arguments: list[Any], result: Any) -> str | None:
    return tensor_complaint(result, (2, CLASSES))


def labels_for_rows(call: Call) -> Call:
    """There must be one label for each row."""
    rows, _, labels = call.arguments
    fits = (rows.count(TWO_IMAGES) == 2) == (labels != "['cat']")
    return replace(call, good=None) if call.good and not fits else call


CALLS: dict[str, st.SearchStrategy[Call]] = {
    "NoisyClassifier": calls("NoisyClassifier(encoder)", ResultCheck(encoder_logits), [noisy_images, noisy_steps]),
    "NoisyClassifier, arguments": calls(
        "NoisyClassifier",
        ResultCheck(encoder_logits),
        [only(X_T), only(*GOOD_STEPS)],
        first=encoders,
        options={"classes": class_names, "checkpointing": a.flag},
    ),
    "DenoiseAugmentedClassifier": calls(
        "DenoiseAugmentedClassifier(augmented_encoder, plain)", ResultCheck(encoder_logits), [noisy_images, steps]
    ),
    "DenoiseAugmentedClassifier, arguments": calls(
        "(lambda encoder, network, x_t, t, **options: DenoiseAugmentedClassifier(encoder, network, **options)(x_t, t))",
        ResultCheck(encoder_logits),
        [augmented_encoders, a.networks, only(X_T), only(*GOOD_STEPS)],
        {"classes": class_names, "through_network": a.flag, "checkpointing": a.off, "dtype": a.dtype},
    ),
    "GuidanceEncoder, arguments": calls(
        "small_encoder",
        ResultCheck(instance_of(nn.Module)),
        [],
        {
            "sample_size": a.integer("16 | 8", "0 | -1"),
            "in_channels": a.integer("3 | 1", "0 | -1"),
            "num_classes": a.integer("5 | 1", "0 | -1"),
            "layers_per_block": a.integer("1 | 2", "0 | -1"),
            "attention_head_dim": a.integer("16 | 32", "0 | -1 | 7 | 64"),
            "norm_num_groups": a.integer("8 | 1 | 32", "0 | -1 | 5"),
            "dropout": a.number("0 | 0.5", "-1 | 2"),
            "down_block_types": pick(
                "('AttnDownBlock2D',) | ['ResnetDownsampleBlock2D']",
                "('nonsense',) | () | 'AttnDownBlock2D' | None | 7 | ('AttnDownBlock2D', 'AttnDownBlock2D') | (7,)",
            ),
            "block_out_channels": pick(
                "(32,) | [64]", "() | (33,) | (0,) | (-32,) | 'x' | None | 7 | (32, 32) | (1.5,)"
            ),
            "downsample_type": a.choice("'resnet' | 'conv'", "'pool'"),
            "resnet_time_scale_shift": a.choice("'scale_shift' | 'default'", "'shift'"),
            "denoised_input": a.flag,
        },
    ),
    "classifier_guide": calls(
        "guided_sample",
        ResultCheck(guided),
        [
            pick(
                "noisy_head",
                "None | 7 | 'head' | (lambda x, t: None) | (lambda x, t: x) | (lambda x, t: head(x).detach())",
            ),
            guide_labels,
            a.number("0 | 1 | -2 | np.float32(3)", "inf", "1e30"),
        ],
        {"schedule": pick("linear", "None | 7 | 'linear'")},
    ).map(lambda call: call.with_keywords(schedule="linear")),
    "load_guidance_classifier": calls(
        "load_guidance_classifier",
        ResultCheck(instance_of(nn.Module)),
        [
            pick(
                "'cifar10-denoise-augmented'",
                "None | 7 | '' | 'nonsense' | '/no/such.pt' | '.' | [] | b'x' | '\\0' | object()",
            )
        ],
    ),
    "load_classifier": calls(
        "classifiers.load_classifier",
        ResultCheck(instance_of(nn.Module)),
        [
            pick(
                "'cifar10-baseline' | 'cifar10-diffaug'",
                "None | 7 | '' | 'resnet18' | '/no/such' | '.' | [] | b'x' | '\\0' | object() | 'x' * 5000 | {}"
                " | Path('cifar10')",
                "Path('cifar10-diffaug')",
            )
        ],
    ),
    "load_weights": calls(
        "classifiers.load_weights",
        ResultCheck(lambda arguments, result: None),
        [
            only("head"),
            pick(bad="Path('/no/such.pt') | Path('.') | Path('setup.cfg') | Path('/dev/null')", either="'x.pt' | None"),
        ],
        {"new_head": a.flag},
    ),
    "build_model": calls(
        "classifiers.build_model",
        ResultCheck(instance_of(nn.Module)),
        [model_names, a.integer("1 | 10 | np.int64(3)", "0 | -1")],
    ),
    "cifar_resnet": calls(
        "(lambda **options: classifiers.cifar_resnet(**options))",
        ResultCheck(instance_of(nn.Module)),
        [],
        {
            "num_classes": a.integer("1 | 10 | np.int64(3)", "0 | -1"),
            "width": a.integer("1 | 8 | np.int64(4)", "0 | -1"),
        },
    ),
    "NormalizedClassifier": calls(
        "classifiers.NormalizedClassifier(head, [0.5] * 3, [0.2] * 3)",
        BatchCheck("logits", checks_values=False),
        [images.wrapped],
    ),
    "NormalizedClassifier, arguments": calls(
        "normalized_logits",
        ResultCheck(logits_of_two),
        [
            pick("head | convnet", "None | 'resnet18' | 7 | nn.Linear"),
            pick(
                "[0.5] * 3 | (0.5,) | np.full(3, 0.5)",
                "None | 'x' | [] | ['a'] | [nan] * 3 | {} | object() | [None]",
                "0.5 | [0.5] * 2 | torch.full((3,), 0.5)",
            ),
            pick(
                "[0.5] * 3 | (0.5,)",
                "None | 'x' | [] | [0] * 3 | [-1] * 3 | [nan] * 3 | {} | [0.5] * 2 | [inf]",
                "0.5 | torch.full((3,), 0.5)",
            ),
        ],
        {
            "classes": pick("() | list('abcdefg')", "7 | None", "'abcdefg' | ['a'] | [1]"),
            "size": a.integer("None | 16 | np.int64(32)", "0 | -1"),
        },
    ),
    "draw_grid": calls(
        "figures.draw_grid",
        ResultCheck(picture_complaint),
        [
            pick(
                [
                    f"[{TWO_IMAGES}]",
                    f"[{TWO_IMAGES}, {TWO_IMAGES}]",
                    "[pixels((2, 3, 9, 7), 'uint8')]",
                    "[pixels((2, 1, 8, 8))]",
                ],
                "[] | None | 7 | 'x' | [None] | [pixels((2, 3, 32, 32), values='nan')] | [pixels((3, 32, 32))]"
                " | [pixels((2, 5, 8, 8))] | [pixels((1, 3, 8, 8))] | [pixels((2, 3, 0, 8))]"
                " | [pixels((2, 3, 8, 8), values='bytes')] | [pixels((2, 3, 8, 8), 'complex64')] | [['a', 'b']]",
                "[pixels((2, 3, 8, 8), 'int64')] | [[picture(), picture()]]",
            ),
            pick("['t = 0', 't = 50']", "None | 7 | [1, 2] | ['a', None] | ['one']", "'ab'"),
            pick("['cat'] | ['cat', 'dog']", "None | 7 | [] | [3] | [None]", "'a'"),
        ],
    ).map(labels_for_rows),
}
