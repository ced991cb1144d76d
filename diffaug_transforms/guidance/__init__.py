"""Classifiers of noisy images, with or without the denoised image as a second input, and the guide for sampling."""

from ..public_names import only_public
from .classifiers import DenoiseAugmentedClassifier, NoisyClassifier
from .encoder import GuidanceEncoder
from .guide import classifier_guide
from .openai import load_guidance_classifier

__all__ = [
    "DenoiseAugmentedClassifier",
    "GuidanceEncoder",
    "NoisyClassifier",
    "classifier_guide",
    "load_guidance_classifier",
]

__dir__ = only_public(__name__)
