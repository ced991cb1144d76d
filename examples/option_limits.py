"""Limits of the training scripts' numeric options. A script checks them before it reads data."""

from __future__ import annotations

import argparse

from diffaug_transforms.arguments import as_integer, as_number

COUNTS = (
    "steps", "batch_size", "max_batch", "limit", "checkpoint_every", "test_every", "repeats",
    "size", "widths", "blocks", "patch_size", "attention_resolutions", "head_width",
)  # fmt: skip
COUNTS_OR_NONE = ("workers", "warmup", "timesteps")
WEIGHTS = ("lr", "min_lr", "weight_decay", "jsd_weight", "mixup", "cutmix")
PROBABILITIES = ("p", "label_smoothing", "drop_path", "label_dropout", "ema_decay")
#: NumPy takes no larger seed.
LARGEST_SEED = 2**32 - 1


def parse_within_limits(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments of the command line. A number outside its limits ends the script with one line."""
    args = parser.parse_args()
    try:
        check_numbers(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def check_numbers(args: argparse.Namespace) -> None:
    """ValueError if an option, of those that the script has, is outside its limits."""
    for name, value in vars(args).items():
        option = name.replace("_", "-")
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if number is None:
                continue
            if name in COUNTS:
                as_integer(option, number, at_least=1)
            elif name in COUNTS_OR_NONE:
                as_integer(option, number, at_least=0)
            elif name in WEIGHTS:
                as_number(option, number, at_least=0)
            elif name in PROBABILITIES:
                as_number(option, number, at_least=0, at_most=1)
            elif name == "seed":
                as_integer(option, number, at_least=0, at_most=LARGEST_SEED)
