"""Copies of a score network that are fast on a device: dtype, layout, group norms. ``Denoiser`` keeps them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .network import ScoreNetwork

#: From this many pixels on, PyTorch's channels-last group norm on the CPU is vectorised (torch 2.6 to 2.15).
VECTORISED_PIXELS = 1024
#: From this many images on, group norms get contiguous maps on the CPU. It saves a fifth of the time for 64 images, and
#: nothing for one.
MANY_IMAGES = 16


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 if the device computes it natively; float16 on older GPUs with tensor cores; float32 otherwise.

    The tensor cores of compute capability 7 (Volta, Turing) know float16 alone.
    """
    if device.type == "cuda":
        generation, _ = torch.cuda.get_device_capability(device)
        return torch.bfloat16 if generation >= 8 else torch.float16 if generation == 7 else torch.float32
    native = device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if native else torch.float32


def fast_layout(device: torch.device, differentiable: bool) -> torch.memory_format:
    """Channels-last; contiguous on a CPU with gradients, because there the backward of group norms is not vectorised.

    The embedded network's forward and backward together take 34 ms an image channels-last, 23 ms contiguous (bfloat16,
    one core).
    """
    return torch.contiguous_format if differentiable and device.type == "cpu" else torch.channels_last


def prepare(
    network: ScoreNetwork,
    device: torch.device,
    dtype: torch.dtype | None,
    differentiable: bool,
    checkpointing: bool,
) -> ScoreNetwork:
    """Move a network, which is changed, to a device: frozen, in eval mode, in the fast dtype and layout there."""
    network = network.requires_grad_(False).eval().to(device, dtype or fast_dtype(device))
    network = network.to(memory_format=fast_layout(device, differentiable))
    if checkpointing:
        network.unet.enable_gradient_checkpointing()  # type: ignore[operator]
    return network


class Upsample(nn.Module):
    """diffusers' Upsample2D in one layout: nearest neighbours, and a convolution if it has one.

    The original makes maps contiguous for 64 images and more, because of an old fault of PyTorch. A compiled network is
    compiled once more for that.
    """

    def __init__(self, conv: nn.Module | None) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        if 4 * x.numel() >= 2**31:  # the channels-last kernel of CUDA counts no further (pytorch/pytorch 141831)
            x = x.contiguous()
        size = {"scale_factor": 2.0} if output_size is None else {"size": output_size}
        x = interpolate(x, mode="nearest", **size)
        return x if self.conv is None else self.conv(x)


def for_tracing(network: ScoreNetwork) -> ScoreNetwork:
    """The same network, its weights shared, with ``Upsample`` for each Upsample2D of a diffusers U-Net."""
    shared = share_weights(network)
    for parent in list(shared.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ == "Upsample2D" and child.norm is None and not child.use_conv_transpose:
                convs = dict(child.named_children()).values()
                setattr(parent, name, Upsample(next(iter(convs), None)))
    return shared


def for_many_images(network: ScoreNetwork) -> ScoreNetwork:
    """The same network, its weights shared, whose group norms get contiguous maps where that is faster."""
    shared = share_weights(network)
    for module in shared.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(contiguous_if_faster)
    return shared


def share_weights(network: ScoreNetwork) -> ScoreNetwork:
    """A copy of a network whose weights are the network's own."""
    weights = (*network.parameters(), *network.buffers())
    return copy.deepcopy(network, {id(tensor): tensor for tensor in weights})


def contiguous_if_faster(norm: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """Make a small bfloat16 map contiguous: PyTorch's channels-last kernel is slow for it on a CPU.

    On maps of 16x16 pixels and 96 channels it takes 8.2 ms, the contiguous one 0.5 ms (batch 64, two cores).
    """
    (x,) = inputs
    small = x.ndim == 4 and x.shape[2] * x.shape[3] < VECTORISED_PIXELS
    return (x.contiguous(),) if small and x.dtype == torch.bfloat16 else None
