"""One call of a user's classifier: what every wrapper of one does.

images in [0, 1] --normalize--> the dtype of the classifier's weights --classifier--> logits, checked, float32
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

#: Layers whose outputs depend on the mode.
OTHERWISE_IN_TRAINING = (_BatchNorm, _DropoutNd)


def logits_of(classifier: Callable[[Tensor], Tensor], normalize: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Logits (B, K), float32, of images (B, C, H, W) in [0, 1]. The classifier runs in the dtype of its own weights.

    So classifiers may be float16, bfloat16 or double. ``normalize`` gets the images in their own dtype.

    Raises:
        ValueError: the classifier returns anything else, such as a tuple or a dict. The classifier's own errors pass
            through, with a note of what it got.
    """
    if getattr(classifier, "training", False):
        warn_of_training_mode(classifier)
    inputs = to_own_dtype(normalize(images), classifier)
    try:
        logits = classifier(inputs)
    except Exception as error:
        error.add_note(f"The classifier got images of shape {tuple(inputs.shape)} in {inputs.dtype}.")
        raise
    shape = logits.shape if isinstance(logits, Tensor) else ()
    if len(shape) != 2 or shape[0] != images.shape[0] or not shape[1]:
        got = f"shape {tuple(shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"classifier must return logits (B, K), here ({images.shape[0]}, K). Got {got}")
    return logits.float()


def warn_of_training_mode(classifier: Any) -> None:
    """Say so if a part of a classifier behaves otherwise in training. Nothing is said in a compiled program."""
    modules = () if torch.compiler.is_compiling() else classifier.modules()
    if any(module.training and isinstance(module, OTHERWISE_IN_TRAINING) for module in modules):
        text = "classifier is in training mode, so its answers depend on the batch or on chance. Call classifier.eval()"
        warnings.warn(text, stacklevel=3)


def to_own_dtype(images: Tensor, classifier: Callable[[Tensor], Tensor]) -> Tensor:
    """The images in the dtype of the classifier's weights; in their own if it has none."""
    weights = classifier.parameters() if isinstance(classifier, nn.Module) else ()
    return images.to(next((weight.dtype for weight in weights if weight.is_floating_point()), images.dtype))
