"""Classifiers by name, and the folders and Hub repositories that training writes.

models.py    build_model, the small cifar_resnet, and NormalizedClassifier, which normalises for a model
storage.py   folders: safetensors, and JSON with all that rebuilds the model; load_classifier also reads the Hub
sharing.py   a folder becomes a Hub repository, with a model card
"""

from ..public_names import only_public
from .models import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NormalizedClassifier,
    build_model,
    cifar_resnet,
    fit_input_size,
)
from .sharing import push_classifier_to_hub
from .storage import EMBEDDED, load_classifier, load_weights, save_classifier

__all__ = [
    "EMBEDDED",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "NormalizedClassifier",
    "build_model",
    "cifar_resnet",
    "fit_input_size",
    "load_classifier",
    "load_weights",
    "push_classifier_to_hub",
    "save_classifier",
]

__dir__ = only_public(__name__)
