"""What a user puts into a pipeline or around a classifier."""

from .anytime import AnytimeEnsemble, AnytimePrediction
from .augmix import AugMix
from .compose import RECIPES, Views, ViewsLoss, compose_with, recipe
from .deepaugment import DeepAugment
from .diffaug import DiffAug
from .ensemble import DiffAugEnsemble, SelfEnsemble

__all__ = [
    "RECIPES",
    "AnytimeEnsemble",
    "AnytimePrediction",
    "AugMix",
    "DeepAugment",
    "DiffAug",
    "DiffAugEnsemble",
    "SelfEnsemble",
    "Views",
    "ViewsLoss",
    "compose_with",
    "recipe",
]
