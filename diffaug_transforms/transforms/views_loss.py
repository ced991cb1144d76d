"""The loss over the named views of ``compose_with``: one cross-entropy for each kind of view, and AugMix's consistency.

A view's name is for the reader; its kind ("clean", "augmented", "deepaugment" or "diffaug") says how the loss uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import FLOATS, as_number, check_choice, check_instance, check_tensor

#: How ``ViewsLoss`` uses a view.
KINDS = ("clean", "augmented", "deepaugment", "diffaug")


class ViewsLoss(nn.Module):
    """CE(clean) + CE(diffaug) + CE(deepaugment) + 12 JSD(clean, augmented...): the loss over the logits of named views.

    The cross-entropies are the paper's (Sastry et al., NeurIPS 2024). The JSD is AugMix's (Hendrycks et al., ICLR 2020,
    eq. 1); its mixture is clamped to [1e-7, 1] before the logarithm, as in google-research/augmix. A term is left out
    if none of its views is present.

    Args:
        clean, diffaug, deepaugment: weights of the cross-entropies of the views of these kinds.
        augmented: weight of the cross-entropy of every other view.
        jsd: weight of the Jensen-Shannon divergence between the clean view and the augmented ones.
        kinds: name -> kind, such as ``views.kinds``. For a view that is not in it the name decides: "clean" is clean, a
            name that starts with "diffaug" or "deepaugment" is of that kind, any other is augmented.

    Raises:
        ValueError, TypeError: in the constructor if a weight is negative or no number, or a kind is unknown; in the
            call if there are no clean logits, or logits and targets do not fit each other.

    Example:
        >>> loss = ViewsLoss()({"clean": torch.randn(4, 10), "diffaug": torch.randn(4, 10)}, torch.arange(4))
    """

    def __init__(
        self,
        *,
        clean: float = 1.0,
        diffaug: float = 1.0,
        deepaugment: float = 1.0,
        augmented: float = 0.0,
        jsd: float = 12.0,
        kinds: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.weights = {"clean": clean, "diffaug": diffaug, "deepaugment": deepaugment, "augmented": augmented}
        self.jsd = jsd
        check_instance("kinds", kinds, (Mapping, type(None)))
        self.kinds = dict(kinds or {})
        for kind in self.kinds.values():
            check_choice("kinds", kind, KINDS)
        for name, weight in {**self.weights, "jsd": jsd}.items():
            as_number(name, weight, at_least=0)

    def forward(self, logits: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """The loss, a scalar. It is 0 for an empty batch.

        Args:
            logits: (B, K) by the name of the view.
            targets: int64 (B,) in 0...K-1, or probabilities (B, K) after MixUp.
        """
        check_logits(logits, targets)
        if not len(targets):
            return torch.cat([view.float() for view in logits.values()]).sum()  # with gradients, as any loss
        kinds = {name: self.kinds.get(name) or kind_of_name(name) for name in logits}
        loss = logits["clean"].new_zeros((), dtype=torch.float32)
        for name, view in logits.items():
            if weight := self.weights[kinds[name]]:
                loss = loss + weight * F.cross_entropy(view.float(), targets)
        compared = [view for name, view in logits.items() if kinds[name] in ("clean", "augmented")]
        if self.jsd and len(compared) > 1:
            loss = loss + self.jsd * jensen_shannon_divergence(torch.stack(compared))
        return loss

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={weight}" for name, weight in {**self.weights, "jsd": self.jsd}.items())


def check_logits(logits: Any, targets: Any) -> None:
    """ValueError or TypeError unless these are as ``ViewsLoss`` takes them. Values on a device are not looked at."""
    check_instance("logits", logits, Mapping, ' of views, such as {"clean": logits}')
    if "clean" not in logits:
        raise ValueError(f"views must hold 'clean'. Got {list(logits)}")
    for name, view in logits.items():
        check_instance("the name of a view", name, str)
        check_tensor(f"logits of {name!r}", view, FLOATS, "floating point (B, K)")
        if view.ndim != 2 or view.shape != logits["clean"].shape:
            raise ValueError(f"logits must be (B, K), as many of each view. Got {tuple(view.shape)} for {name!r}")
    number, classes = logits["clean"].shape
    check_tensor("targets", targets, (torch.int64, *FLOATS), f"int64 ({number},), or probabilities")
    if targets.shape != ((number, classes) if targets.is_floating_point() else (number,)):
        wanted = f"classes ({number},), or probabilities ({number}, {classes})"
        raise ValueError(f"targets must be {wanted}. Got shape {tuple(targets.shape)}")
    if targets.device.type == "cpu" and not targets.is_floating_point() and not torch.compiler.is_compiling():
        wrong = targets[(targets < 0) | (targets >= classes)]
        if len(wrong):
            raise ValueError(f"targets must be in 0...{classes - 1}. Got {int(wrong[0])}")


def kind_of_name(name: str) -> str:
    """The kind of a view whose composition is not known. Numbers follow names: "deepaugment1", "deepaugment2"."""
    if name == "clean":
        return "clean"
    return next((kind for kind in ("diffaug", "deepaugment") if name.startswith(kind)), "augmented")


def jensen_shannon_divergence(logits: Tensor) -> Tensor:
    """Mean over the batch of mean_v KL(p_v || mixture), in nats: a scalar. ``logits`` are (V, B, K)."""
    log_probabilities = logits.float().log_softmax(dim=-1)
    log_mixture = log_probabilities.exp().mean(dim=0).clamp(1e-7, 1).log()
    divergence = F.kl_div(log_mixture.expand_as(logits), log_probabilities, reduction="none", log_target=True)
    return divergence.sum(dim=-1).mean()
