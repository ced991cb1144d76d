"""Transforms for a pipeline, and wrappers around a classifier.

diffaug.py    DiffAug: a Denoiser and a random draw
functional.py diffaug: the same without the draw, as a function
augmix.py     AugMix, after the official code
deepaugment/  DeepAugment: image-to-image networks with randomly changed weights
compose.py    compose_with: named views of one image; the paper's recipes
views_loss.py ViewsLoss: the loss over named views
ensemble.py   DiffAugEnsemble and SelfEnsemble: the mean of a classifier's answers to several views
anytime.py    AnytimeEnsemble, which stops once the answer is decided
noise_level.py   estimate_sigma: how much noise an image has
purify.py     Purify: each image denoised at its own noise level, clean images left alone

A new augmentation is a torchvision v2 transform in a file of its own here. ``compose_with`` takes any v2 transform.
"""

from ..public_names import only_public
from . import functional
from .anytime import AnytimeEnsemble, AnytimePrediction
from .augmix import AugMix
from .compose import RECIPES, Views, compose_with, recipe
from .deepaugment import DeepAugment
from .diffaug import DiffAug
from .ensemble import DiffAugEnsemble, SelfEnsemble
from .noise_level import estimate_sigma
from .purify import Purify
from .views_loss import ViewsLoss

__all__ = [
    "RECIPES",
    "AnytimeEnsemble",
    "AnytimePrediction",
    "AugMix",
    "DeepAugment",
    "DiffAug",
    "DiffAugEnsemble",
    "Purify",
    "SelfEnsemble",
    "Views",
    "ViewsLoss",
    "compose_with",
    "estimate_sigma",
    "functional",
    "recipe",
]

__dir__ = only_public(__name__)
