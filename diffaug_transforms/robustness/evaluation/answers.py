"""What classifiers say about images: log-probabilities, and their entropy. And what makes them fast at it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def in_channels_last(classifier: nn.Module) -> nn.Module:
    """A library's model with weights in the layout in which its convolutions are fastest, or a program as it is.

    The answers change by no more than rounding. An exported program may hold operations that need its own layout.
    """
    is_program = any(isinstance(part, torch.fx.GraphModule) for part in classifier.modules())
    return classifier if is_program else classifier.to(memory_format=torch.channels_last)


class InBfloat16(nn.Module):
    """A classifier under bfloat16 autocast. On devices with bfloat16 it is faster, and close decisions may change."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return self.classifier(images)


@torch.inference_mode()
def log_probabilities(classifier: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """float32 (..., K) for images (..., C, H, W) in [0, 1], in batches, on the images' device."""
    flat = images.reshape(-1, *images.shape[-3:])
    logits = torch.cat([classifier(part.float()).float() for part in flat.split(batch_size)])
    return logits.log_softmax(dim=-1).reshape(*images.shape[:-3], -1)


def entropy(log_p: Tensor) -> Tensor:
    """In nats, (...), for log-probabilities (..., K)."""
    return torch.special.entr(log_p.exp()).sum(dim=-1)
