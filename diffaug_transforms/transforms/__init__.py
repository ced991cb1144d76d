"""What a user puts into a pipeline or around a classifier."""

from .augmix import AugMix
from .compose import Views, ViewsLoss, compose_with
from .deepaugment import DeepAugment
from .diffaug import DiffAug
from .ensemble import DiffAugEnsemble
from .recipes import RECIPES, recipe

__all__ = [
    "RECIPES",
    "AugMix",
    "DeepAugment",
    "DiffAug",
    "DiffAugEnsemble",
    "Views",
    "ViewsLoss",
    "compose_with",
    "recipe",
]
