"""Classifiers of the command line, with the fields that name them in records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from diffaug_transforms.robustness.evaluation import classifiers
from diffaug_transforms.robustness.evaluation.answers import InBfloat16, in_channels_last


def open_classifier(spec: str) -> tuple[nn.Module, dict[str, Any]]:
    """A classifier of images in [0, 1], in eval mode, and its fields. Library models must have 1000 classes."""
    opened = classifiers.open_classifier(spec, num_classes=1000)
    return opened.module, opened.fields


def open_classifiers(
    specs: Sequence[str], device: torch.device, amp: bool = False
) -> tuple[dict[str, nn.Module], dict[str, dict[str, Any]]]:
    """Several classifiers on a device, and their fields, each by what it was opened from. ``amp``: in bfloat16.

    ValueError if two have the same fields: records could not tell them apart.
    """
    opened = {spec: open_classifier(spec) for spec in specs}
    fields = {spec: field for spec, (_, field) in opened.items()}
    names: dict[str, str] = {}
    for spec, field in fields.items():
        if (first := names.setdefault(repr(field), spec)) != spec:
            raise ValueError(f"classifiers must differ in model, recipe or seed. {first} and {spec} are both {field}")
    modules = {spec: in_channels_last(classifier).to(device) for spec, (classifier, _) in opened.items()}
    return {spec: InBfloat16(module) if amp else module for spec, module in modules.items()}, fields
