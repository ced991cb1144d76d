"""What classifiers say about images: log-probabilities, and their entropy."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.inference_mode()
def log_probabilities(classifier: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """float32 (..., K) for images (..., C, H, W) in [0, 1], in batches, on the images' device."""
    flat = images.reshape(-1, *images.shape[-3:])
    logits = torch.cat([classifier(part.float()).float() for part in flat.split(batch_size)])
    return logits.log_softmax(dim=-1).reshape(*images.shape[:-3], -1)


def entropy(log_p: Tensor) -> Tensor:
    """In nats, (...), for log-probabilities (..., K)."""
    return torch.special.entr(log_p.exp()).sum(dim=-1)
