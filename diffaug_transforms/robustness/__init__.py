"""What adapts, measures and explains: DDA, corruptions of test images."""

from .adaptation import DDA
from .corruptions import CORRUPTIONS, DATASETS, corrupt
from .imagenet_sets import IMAGENET_SETS, read_imagenet_set
from .mce import mean_corruption_error
from .shift_sets import ShiftSet, corrupted, read_cifar10_c

__all__ = [
    "CORRUPTIONS",
    "DATASETS",
    "DDA",
    "IMAGENET_SETS",
    "ShiftSet",
    "corrupt",
    "corrupted",
    "mean_corruption_error",
    "read_cifar10_c",
    "read_imagenet_set",
]
