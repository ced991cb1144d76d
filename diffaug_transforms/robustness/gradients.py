"""Input gradients of a classifier, alone or through a denoiser, and how much they look like the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..images import as_labels, to_batch

OUTPUTS = ("log_probability", "logit")


def input_gradient(
    classifier: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor | Sequence[int],
    *,
    through: Callable[[Tensor], Tensor] | None = None,
    output: str = "log_probability",
) -> Tensor:
    """The gradient by each image of what a classifier says of its label, float32 (B, C, H, W). Leaves no other.

    Args:
        classifier: from images in [0, 1], (B, C, H, W), to logits (B, K), each image for itself: in eval mode.
        images: uint8 or in [0, 1], (B, C, H, W).
        labels: (B,) in 0...K-1.
        through: comes before the classifier, and the gradient is the total derivative through both; such as
            ``DiffAug(network, timesteps=100, differentiable=True, dtype=torch.float32)``, which draws anew at every
            call, or with one draw kept, ``lambda images: augment.transform(images, params)``. None: nothing.
        output: ``"log_probability"``, minus the cross-entropy, or ``"logit"``, the label's alone.

    Raises:
        ValueError, TypeError: unknown output, images or labels not as above, a ``through`` that stops gradients.

    Example:
        >>> classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
        >>> input_gradient(classifier, torch.rand(2, 3, 32, 32), [3, 8]).shape
        torch.Size([2, 3, 32, 32])
    """
    if output not in OUTPUTS:
        raise ValueError(f"output must be one of {OUTPUTS}. Got {output!r}")
    with torch.inference_mode(False), torch.enable_grad():
        batch = to_batch(images).detach().clone().requires_grad_()
        views = batch if through is None else through(batch)
        if not views.requires_grad:
            raise ValueError("through must let gradients pass, as DiffAug(differentiable=True) does. Got none")
        logits = classifier(views)
        index = _check_labels(labels, batch, logits.shape[1])
        outputs = logits.float().log_softmax(1) if output == "log_probability" else logits.float()
        (gradient,) = torch.autograd.grad(outputs.gather(1, index[:, None]).sum(), batch)
    return gradient


def gradient_alignment(images: Tensor, gradients: Tensor, *, cosine: bool = False) -> Tensor:
    """How much each gradient looks like its image: ``|<x, g>| / ||g||``, float32 (B,); NaN where a gradient is zero.

    (Etmann et al., ICML 2019, arXiv 1905.04172, def. 2.) They take the predicted class's logit: ``input_gradient``
    with ``output="logit"``. The number is the length of the image's projection, so it depends on the images' range;
    ``cosine=True`` divides by ``||x||`` too, and gives ``|cos|`` of the angle, in [0, 1].

    Args:
        images, gradients: (B, C, H, W), on any scale.

    Example:
        >>> image = torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 2)
        >>> gradient = torch.tensor([0.0, -2.0]).reshape(1, 1, 1, 2)
        >>> gradient_alignment(image, gradient), gradient_alignment(image, gradient, cosine=True)
        (tensor([4.]), tensor([0.8000]))
    """
    if images.shape != gradients.shape:
        raise ValueError(f"gradients must be like images, {tuple(images.shape)}. Got {tuple(gradients.shape)}")
    x, g = images.float().flatten(1), gradients.float().flatten(1)
    alignment = (x * g).sum(1).abs() / g.norm(dim=1)
    return alignment / x.norm(dim=1) if cosine else alignment


def _check_labels(labels: Tensor | Sequence[int], batch: Tensor, num_classes: int) -> Tensor:
    index = as_labels(labels, len(batch), batch.device)
    if index is None:
        raise ValueError("labels must be one per image. Got None")
    wrong = index[(index < 0) | (index >= num_classes)]
    if len(wrong):
        raise ValueError(f"labels must be in 0...{num_classes - 1}. Got {int(wrong[0])}")
    return index.clone()  # autograd cannot keep a tensor made in inference mode
