"""DiffAug: one diffuse-and-denoise step as augmentation and as test-time ensemble (Sastry et al., NeurIPS 2024).

    image --diffuse--> x_t --score network--> denoised image --> classifier
    [0,1]   t, noise          one call            [0,1]

Where to look first:

    noise is added              in score/functional.py: diffuse(), which denoise() in score/denoiser.py calls
    the network is called       in score/denoiser.py: denoise(), which calls ScoreNetwork.predict()
    a new network type goes     into score/adapters.py; a network of a known type only needs a card in assets/cards.json
    a new augmentation goes     into transforms/, as a torchvision v2 transform; compose_with() combines it with others

Files and folders in the order of their layers. A layer imports only from layers above it:

    deprecated.py   old public names that still work, with a warning
    public_names.py what dir() shows
    versions.py     versions of installed packages
    without_waiting.py   constants for a device, and checks on it that are read at a later call
    arguments.py    every check of an argument, stated once
    files.py        JSON and tensors that others wrote, read with care
    hub.py          repositories of the Hugging Face Hub, downloaded and uploaded
    labels.py       the labels in a sample, for those who ask for them
    pictures.py     the one reader of picture files
    images.py       the images in a sample, of any type <-> a float batch; assets/, the only data folder
    classify.py     one call of a user's classifier
    figures.py      labelled grids of images
    airbench.py     airbench94, a strong classifier for CIFAR-10
    classifiers/    classifiers by name, and the folders and Hub repositories that training writes
    score/          the diffusion side: schedules, networks, and Denoiser, the engine that the layers below use
    transforms/     DiffAug, AugMix, DeepAugment and compose_with for training; DiffAugEnsemble and Purify for test time
    guidance/       noisy and denoise-augmented classifiers, and the guide that they give to sampling
    robustness/     DDA, corruptions, test sets, certificates, out-of-distribution scores, gradients
    offline/        augmented copies of folders and shards of images, made before training
    app/            the page of `diffaug app`
    cli/            the `diffaug` command, one module for each command

Importing this package imports nothing else, not even torch, before a name is used. A network is loaded at its first
image, and is downloaded then if it has to be.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .public_names import only_public

if TYPE_CHECKING:
    from .score import ScoreNetwork, list_score_networks, load_score_network
    from .transforms import AugMix, DeepAugment, DiffAug, DiffAugEnsemble, Purify, compose_with

__all__ = [
    "AugMix",
    "DeepAugment",
    "DiffAug",
    "DiffAugEnsemble",
    "Purify",
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


__dir__ = only_public(__name__, "__version__")
