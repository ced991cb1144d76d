"""A strong and fast CIFAR-10 network: airbench94 of Jordan, "94% on CIFAR-10 in 3.29 seconds" (arXiv 2404.00498)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from .arguments import as_integer

#: Channels of the three groups (section 2 of the paper).
WIDTHS = (64, 256, 256)
#: Added to the variances of the patches, so that flat directions are not blown up (section 3.1).
WHITENING_EPSILON = 5e-4
#: The logits are divided by it, as the paper's last layer does. It is 9 for images of any size.
LOGIT_DIVISOR = 9.0


class Airbench(nn.Module):
    """The network. Each group has two convolutions, and halves the side after the first one.

        images --whiten, a 2x2 convolution--> 24 channels --three groups--> (B, 256, h, w) --maximum--> logits

    At 32 pixels it has 2.0 M parameters and takes 0.24 GFLOP an image.

    Args:
        num_classes: number of outputs.

    Example:
        >>> Airbench(10)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Attributes:
        whiten: its weights are fixed. ``set_whitening`` computes them before training; its bias is trained.
        groups: their convolutions start as the identity. Batch norms have a trained bias only.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        num_classes = as_integer("num_classes", num_classes, 1)
        patch = 3 * 2 * 2
        self.whiten = nn.Conv2d(3, 2 * patch, kernel_size=2)
        self.whiten.weight.requires_grad_(False)
        widths = (2 * patch, *WIDTHS)
        self.groups = nn.Sequential(nn.GELU(), *(_group(inputs, outputs) for inputs, outputs in pairwise(widths)))
        self.head = nn.Linear(widths[-1], num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        # amax would be the same, but its gradient is NaN if PyTorch's compiler computes it in bfloat16 on a CPU.
        features = self.groups(self.whiten(images)).flatten(2).max(dim=2).values
        # The head has no bias, so dividing in front of it is the same. OODDetector needs the head's outputs to be the
        # logits.
        return self.head(features / LOGIT_DIVISOR)

    def norm_biases(self) -> list[nn.Parameter]:
        """The biases of the batch norms, which learn much faster than the other parameters (section 3.3)."""
        return [module.bias for module in self.modules() if isinstance(module, nn.BatchNorm2d)]


def _group(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        _identity(inputs, outputs), nn.MaxPool2d(2), _norm(outputs), nn.GELU(), _identity(outputs, outputs),
        _norm(outputs), nn.GELU(),
    )  # fmt: skip


def _identity(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution whose first ``inputs`` filters pass the input through (section 3.2)."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight.data[:inputs])
    return convolution


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


@torch.no_grad()
def set_whitening(model: Airbench, images: Tensor) -> None:
    """Fix the first layer so that its outputs on 2x2 patches of these images have unit variance, and no correlation.

    Its filters are the eigenvectors of the patches' covariance, each over the root of its eigenvalue, and their
    negatives (section 3.1; Tramer and Boneh 2020, "Differentially private learning needs better features").

    Args:
        images: normalised training images, (N, 3, H, W). The paper takes 5,000.
    """
    patches = nn.functional.unfold(images.float(), kernel_size=2)  # (N, 12, positions)
    patches = patches.transpose(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + WHITENING_EPSILON).sqrt()).T.reshape(-1, 3, 2, 2)
    model.whiten.weight.copy_(torch.cat([filters, -filters]))
