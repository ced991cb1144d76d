"""Input gradients of a classifier, alone or through a denoiser, and how much they look like the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..arguments import (
    FLOATS,
    check_callable,
    check_choice,
    check_classifier,
    check_flags,
    check_instance,
    check_tensor,
)
from ..classify import logits_of
from ..deprecated import warn_renamed
from ..images import to_batch
from ..labels import as_labels, class_names_in
from ..without_waiting import send

OUTPUTS = ("log_probability", "logit")


def input_gradient(
    classifier: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor | Sequence[int],
    *,
    denoiser: Callable[[Tensor], Tensor] | None = None,
    output: str = "log_probability",
    through: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The gradient of a classifier's output for each image's label with respect to the image, float32 (B, C, H, W).

    No other gradient is left behind: the ``grad`` of the images and of the parameters stays as it was.

    Args:
        classifier: from images in [0, 1], (B, C, H, W), to logits (B, K). An image's logits must not depend on the
            other images, so use eval mode.
        images: uint8 or in [0, 1], (B, C, H, W).
        labels: (B,) in 0...K-1.
        denoiser: from images in [0, 1] to images in [0, 1]. It is called before the classifier, and the result is the
            total derivative through both. ``DiffAug(network, timesteps=100, differentiable=True,
            dtype=torch.float32)`` draws noise anew at every call; ``lambda images: augment.transform(images, params)``
            repeats one draw. None means no denoiser.
        output: ``"log_probability"`` of the label, which is minus the cross-entropy, or ``"logit"``, the label's logit.
        through: old name of ``denoiser``.

    Raises:
        ValueError, TypeError: the output is unknown, the images or labels are not as above, or the denoiser stops
            gradients.

    Example:
        >>> classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
        >>> input_gradient(classifier, torch.rand(2, 3, 32, 32), [3, 8]).shape
        torch.Size([2, 3, 32, 32])
    """
    if through is not None:
        warn_renamed("input_gradient(through=...)", "input_gradient(denoiser=...)")
        denoiser = through
    check_classifier(classifier)
    check_callable("denoiser", denoiser, "a function of images")
    check_choice("output", output, OUTPUTS)
    with torch.inference_mode(False), torch.enable_grad():
        batch = to_batch(images).detach().clone().requires_grad_()
        denoised = batch if denoiser is None else denoiser(batch)
        check_instance("what denoiser returns", denoised, Tensor)
        if not denoised.requires_grad:
            raise ValueError("denoiser must let gradients pass, as DiffAug(differentiable=True) does. Got none")
        logits = logits_of(classifier, lambda image: image, denoised)
        # The clone is needed because autograd cannot keep a tensor from inference mode.
        names = class_names_in(classifier)
        index = as_labels(labels, len(batch), "cpu", logits.shape[1], class_names=names)
        index = send(index.clone(), batch.device)
        outputs = logits.log_softmax(1) if output == "log_probability" else logits
        (gradient,) = torch.autograd.grad(outputs.gather(1, index[:, None]).sum(), batch)
    return gradient


def gradient_alignment(images: Tensor, gradients: Tensor, *, cosine: bool = False) -> Tensor:
    """How much each gradient looks like its image: ``|<x, g>| / ||g||``, float32 (B,). NaN if a gradient is zero.

    Source: Etmann et al., ICML 2019, arXiv 1905.04172, definition 2. They take the gradient of the predicted class's
    logit, which is ``input_gradient`` with ``output="logit"``. The number is the length of the image's projection on
    the gradient, so it depends on the images' range.

    Args:
        images, gradients: (B, C, H, W), on any scale.
        cosine: divide by ``||x||`` too. The result is then ``|cos|`` of the angle, in [0, 1].

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> image = torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 2)
        >>> gradient = torch.tensor([0.0, -2.0]).reshape(1, 1, 1, 2)
        >>> gradient_alignment(image, gradient), gradient_alignment(image, gradient, cosine=True)
        (tensor([4.]), tensor([0.8000]))
    """
    check_flags(cosine=cosine)
    for name, value in (("images", images), ("gradients", gradients)):
        check_tensor(name, value, FLOATS, "floating point (B, C, H, W)")
    if images.shape != gradients.shape:
        raise ValueError(f"gradients must be like images, {tuple(images.shape)}. Got {tuple(gradients.shape)}")
    x, g = images.float().flatten(1), gradients.float().flatten(1)
    alignment = (x * g).sum(1).abs() / g.norm(dim=1)
    return alignment / x.norm(dim=1) if cosine else alignment
