"""What adapts, measures and explains: DDA, test sets under shift, smoothing, OOD scores, gradients, Jacobians."""

from .adaptation import DDA
from .corruptions import CORRUPTIONS, DATASETS, corrupt
from .gradients import gradient_alignment, input_gradient
from .imagenet_sets import IMAGENET_SETS, read_imagenet_set
from .jacobian import (
    LeadingDirections,
    jacobian_vector_product,
    leading_directions,
    posterior_covariance,
    vector_jacobian_product,
)
from .mce import mean_corruption_error
from .ood import OODDetector
from .ood_metrics import aupr, auroc, fpr95
from .ood_rules import OOD_METHODS
from .ood_sets import read_image_folder
from .shift_sets import ShiftSet, corrupted, read_cifar10_c
from .smoothing import ABSTAIN, Certificate, DenoisedSmoothing

__all__ = [
    "ABSTAIN",
    "CORRUPTIONS",
    "DATASETS",
    "DDA",
    "IMAGENET_SETS",
    "OOD_METHODS",
    "Certificate",
    "DenoisedSmoothing",
    "LeadingDirections",
    "OODDetector",
    "ShiftSet",
    "aupr",
    "auroc",
    "corrupt",
    "corrupted",
    "fpr95",
    "gradient_alignment",
    "input_gradient",
    "jacobian_vector_product",
    "leading_directions",
    "mean_corruption_error",
    "posterior_covariance",
    "read_cifar10_c",
    "read_image_folder",
    "read_imagenet_set",
    "vector_jacobian_product",
]
