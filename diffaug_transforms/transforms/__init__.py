"""What a user puts into a pipeline or around a classifier."""

from .diffaug import DiffAug
from .ensemble import DiffAugEnsemble

__all__ = ["DiffAug", "DiffAugEnsemble"]
