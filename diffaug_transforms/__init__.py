"""DiffAug (Sastry et al., NeurIPS 2024): one diffuse-and-denoise step as augmentation and as test-time ensemble.

    image --diffuse--> x_t --score network--> denoised image --> classifier
     [0,1]   t, noise          one call            [0,1]

    score/        x_t, t and the network: schedules, pure functions, ScoreNetwork, loading from Hub, disk, OpenAI
    transforms/   DiffAug, AugMix, DeepAugment for pipelines, compose_with for training, DiffAugEnsemble at test time
    robustness/   DDA, which adapts test images; test sets under shift; smoothing, OOD scores, gradients
    guidance/     noisy and denoise-augmented classifiers, and the guide they make for sampling
    classifiers.py  classifiers by name, and the folders that training writes
    cli.py        the `diffaug` command; app.py its page in the browser

Importing this package imports neither torch nor anything else before a name is used; a network is loaded, and
downloaded if need be, at its first image.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .score import ScoreNetwork, list_score_networks, load_score_network
    from .transforms import AugMix, DeepAugment, DiffAug, DiffAugEnsemble, compose_with

__all__ = [
    "AugMix",
    "DeepAugment",
    "DiffAug",
    "DiffAugEnsemble",
    "ScoreNetwork",
    "compose_with",
    "list_score_networks",
    "load_score_network",
]
__version__ = "0.2.0"

_SCORE = ("ScoreNetwork", "list_score_networks", "load_score_network")
_HOME = {name: ".score" if name in _SCORE else ".transforms" for name in __all__}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
