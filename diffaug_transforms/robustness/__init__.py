"""Measure and explain robustness, and adapt test images.

adaptation.py  DDA, which moves shifted images back towards the network's data
corruptions/   the 15 common corruptions of CIFAR-10-C and ImageNet-C
corrupted.py   a data set whose images are corrupted when they are read
datasets.py    test sets under covariate shift and out of distribution
metrics.py     which predictions are correct; the mean corruption error
evaluation/    a classifier's accuracy under shift, alone and with the methods for test time
smoothing.py   certified predictions by denoised smoothing
ood.py         out-of-distribution scores; ood_metrics.py judges them
gradients.py   input gradients and their alignment with the image
jacobian.py    the Jacobian of the denoised image
"""

from ..deprecated import renamed_names
from ..public_names import only_public
from .adaptation import DDA
from .corrupted import Corrupted
from .corruptions import CORRUPTION_SETS, CORRUPTIONS, corrupt
from .datasets import (
    IMAGENET_SETS,
    candidate_classes,
    load_cifar10_c,
    load_image_folder,
    load_imagenet_set,
    random_subset,
)
from .evaluation import evaluate
from .gradients import gradient_alignment, input_gradient
from .jacobian import (
    LeadingDirections,
    jacobian_vector_product,
    leading_directions,
    posterior_covariance,
    vector_jacobian_product,
)
from .metrics import correct, mean_corruption_error
from .ood import OOD_METHODS, OODDetector
from .ood_metrics import aupr, auroc, fpr95
from .smoothing import ABSTAIN, Certificate, DenoisedSmoothing

__all__ = [
    "ABSTAIN",
    "CORRUPTIONS",
    "CORRUPTION_SETS",
    "DDA",
    "IMAGENET_SETS",
    "OOD_METHODS",
    "Certificate",
    "Corrupted",
    "DenoisedSmoothing",
    "LeadingDirections",
    "OODDetector",
    "aupr",
    "auroc",
    "candidate_classes",
    "correct",
    "corrupt",
    "evaluate",
    "fpr95",
    "gradient_alignment",
    "input_gradient",
    "jacobian_vector_product",
    "leading_directions",
    "load_cifar10_c",
    "load_image_folder",
    "load_imagenet_set",
    "mean_corruption_error",
    "posterior_covariance",
    "random_subset",
    "vector_jacobian_product",
]

__dir__ = only_public(__name__)

__getattr__ = renamed_names(
    __name__,
    {
        "DATASETS": "CORRUPTION_SETS",
        "read_cifar10_c": "load_cifar10_c",
        "read_image_folder": "load_image_folder",
        "read_imagenet_set": "load_imagenet_set",
    },
)
