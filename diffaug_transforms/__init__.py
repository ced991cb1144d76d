"""DiffAug (Sastry et al., NeurIPS 2024): one diffuse-and-denoise step as augmentation and as test-time ensemble.

    image --diffuse--> x_t --score network--> denoised image --> classifier
     [0,1]   t, noise          one call            [0,1]

    score/        x_t, t and the network: schedules, pure functions, ScoreNetwork, loading from Hub, disk, OpenAI
    transforms/   DiffAug for pipelines, DiffAugEnsemble around classifiers
    cli.py        the `diffaug` command

Importing this package loads no weights; a network is loaded, and downloaded if need be, at its first image.
"""

from .score import ScoreNetwork, list_score_networks, load_score_network
from .transforms import DiffAug, DiffAugEnsemble

__all__ = ["DiffAug", "DiffAugEnsemble", "ScoreNetwork", "list_score_networks", "load_score_network"]
__version__ = "0.1.0"
