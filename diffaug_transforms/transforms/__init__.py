"""What a user puts into a pipeline or around a classifier."""

from .anytime import AnytimeEnsemble, AnytimePrediction
from .augmix import AugMix
from .compose import Views, ViewsLoss, compose_with
from .deepaugment import DeepAugment
from .diffaug import DiffAug
from .ensemble import DiffAugEnsemble, SelfEnsemble
from .recipes import RECIPES, recipe

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
