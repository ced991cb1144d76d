"""What networks are fastest with: channels-last but where PyTorch is slow at it, and batches that fit a CPU's cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

#: From this many pixels on, PyTorch's channels-last group norm on the CPU is vectorised (torch 2.6 to 2.15).
VECTORISED_PIXELS = 1024


#: 64 images of 32x32 pixels: the embedded network takes 4.8 ms an image so, 7 in a batch of 270 (two cores).
CPU_BATCH_PIXELS = 64 * 32 * 32


def fast_batch(images: Tensor) -> int:
    """How many of images (B, C, H, W) to give a network at once: all; on the CPU equal parts that fit its cache."""
    if images.device.type != "cpu" or not len(images):
        return max(len(images), 1)
    largest = max(1, CPU_BATCH_PIXELS // (images.shape[-2] * images.shape[-1]))
    parts = -(-len(images) // largest)
    return -(-len(images) // parts)


def fast_layout(device: torch.device, gradients: bool) -> torch.memory_format:
    """The layout of weights and images that a convolutional network is fastest in.

    Channels-last, on CPUs and GPUs alike; but on the CPU the backward of channels-last group norms is not vectorised:
    the embedded network's forward and backward together take 34 ms an image, contiguous 23 (bfloat16, one core).
    """
    return torch.contiguous_format if gradients and device.type == "cpu" else torch.channels_last


def avoid_slow_group_norms(unet: nn.Module) -> None:
    """Hand group norms a contiguous map where their channels-last kernel is slow; what they compute stays the same.

    On maps of 16x16 pixels and 96 channels in bfloat16 it takes 8.2 ms, the contiguous one 0.5 ms (batch 64, two
    cores), which made up a fifth of the embedded network's time.
    """
    for module in unet.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(make_contiguous_where_faster)


def make_contiguous_where_faster(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    (x,) = inputs
    small = x.ndim == 4 and x.shape[2] * x.shape[3] < VECTORISED_PIXELS
    slow = small and x.device.type == "cpu" and x.dtype == torch.bfloat16
    return (x.contiguous(),) if slow else None
