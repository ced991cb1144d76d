"""Classifiers by name: torchvision's, timm's, and a small one for 32 pixels; and the normalisation in front of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms.v2 import functional as F

from ..airbench import Airbench
from ..arguments import (
    as_integer,
    as_names,
    as_normalize,
    as_optional_integer,
    check_classifier,
    check_flags,
    check_instance,
)
from ..classify import to_own_dtype
from ..images import check_channels

#: The largest images, by their side in pixels, of models that have position embeddings.
MAX_INPUT_SIZE = 1024
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class NormalizedClassifier(nn.Module):
    """A classifier of images, uint8 or floating point in [0, 1]. It normalises them and calls ``model``.

    Images are normalised in float32. The model runs in the dtype of its own weights.

    Args:
        model: takes normalised images (B, C, H, W), returns logits (B, K).
        mean, std: per channel, or one number for all channels, on the [0, 1] scale.
        classes: names of the K classes, if known. Also the attribute ``classes``.
        size: side in pixels of the images that the model was trained on, if known. Also the attribute ``size``.

    Raises:
        ValueError, TypeError: an argument is not as above; in the call, integers other than uint8.

    Example:
        >>> classifier = NormalizedClassifier(build_model("resnet18", 10), IMAGENET_MEAN, IMAGENET_STD)
        >>> classifier(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float] | float,
        std: Sequence[float] | float,
        classes: Sequence[str] = (),
        size: int | None = None,
    ) -> None:
        super().__init__()
        check_classifier(model)
        self.normalize: Any = as_normalize((mean, std))
        self.model = model
        self.classes = as_names("classes", classes)
        self.size = as_optional_integer("size", size, 1)

    def forward(self, images: Tensor) -> Tensor:
        check_instance("images", images, Tensor)
        if images.ndim != 4 or 0 in images.shape[1:]:
            raise ValueError(f"images must be (B, C, H, W). Got shape {tuple(images.shape)}")
        if (channels := max(len(self.normalize.mean), len(self.normalize.std))) > 1:
            check_channels(images, channels)
        if not images.is_floating_point() and images.dtype != torch.uint8:
            raise TypeError(f"images must be uint8 in 0...255 or floating point in [0, 1]. Got {images.dtype}")
        floats = images.float() if images.is_floating_point() else F.to_dtype(images, torch.float32, scale=True)
        return self.model(to_own_dtype(self.normalize(floats), self.model))

    @property
    def mean(self) -> list[float]:
        return self.normalize.mean

    @property
    def std(self) -> list[float]:
        return self.normalize.std


def build_model(name: str, num_classes: int, pretrained: bool = False, *, new_head: bool = False) -> nn.Module:
    """A model by name: torchvision's ``resnet50``, ``timm/resnet50`` (extra ``train``), or one for CIFAR-10.

    Args:
        name: of the library's model. ``cifar_resnet-W`` is ``cifar_resnet(num_classes, width=W)``, and ``airbench94``
            the stronger ``airbench.Airbench``.
        num_classes: number of outputs.
        pretrained: start from the library's default weights.
        new_head: allow a pretrained model with another number of classes. It gets a new last layer of zeros, as BiT
            has it (Kolesnikov et al. 2020, arXiv 1912.11370): large random logits would send large gradients through
            the trained layers. It must be trained before its answers mean anything.

    Raises:
        ValueError, TypeError: no library knows the name, a CIFAR-10 model is to be pretrained, pretrained weights are
            for another number of classes and ``new_head`` is False, or an argument of another kind.
        ImportError: timm is needed and missing.

    Example:
        >>> build_model("cifar_resnet-8", num_classes=10)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    check_instance("name", name, str)
    num_classes = as_integer("num_classes", num_classes, 1)
    check_flags(pretrained=pretrained, new_head=new_head)
    own, _, width = name.partition("-")
    if name == "airbench94" or (own == "cifar_resnet" and width.isdecimal() and int(width)):
        if pretrained:
            raise ValueError(f"there are no pretrained weights for {name}")
        return Airbench(num_classes) if name == "airbench94" else cifar_resnet(num_classes, width=int(width))
    if name.startswith("timm/"):
        try:
            import timm
        except ImportError:
            raise ImportError('timm models need timm: pip install "diffaug-transforms[train]"') from None
        bare = name.removeprefix("timm/")
        try:
            config = timm.models.get_pretrained_cfg(bare) if pretrained else None
            if config and not new_head:
                check_head(name, config.num_classes, num_classes)
            model: Any = timm.create_model(bare, pretrained=pretrained, num_classes=num_classes)
        except RuntimeError as error:
            raise ValueError(f"timm cannot make the model {name!r} (see timm.list_models()): {error}") from error
        if config and config.num_classes != num_classes:
            heads = model.get_classifier()  # several in distilled models
            for head in heads if isinstance(heads, tuple) else (heads,):
                set_to_zero(head)
        return model
    if name not in models.list_models(module=models):
        raise ValueError(
            f"model must be a torchvision classifier, timm/NAME, airbench94 or cifar_resnet-WIDTH. Got {name!r}"
        )
    if not pretrained:
        return models.get_model(name, num_classes=num_classes)
    model = models.get_model(name, weights="DEFAULT")
    path, head = last_linear(model)
    if not new_head:
        check_head(name, head.out_features, num_classes)
    if head.out_features != num_classes:
        replace_module(model, path, set_to_zero(nn.Linear(head.in_features, num_classes)))
    return model


def last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    """The last linear layer, which gives the logits, and its name. ValueError if there is none."""
    found = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no linear layer at its end that could be replaced")
    return found[-1]


@torch.no_grad()
def set_to_zero(layer: nn.Module) -> nn.Module:
    """The layer, with all its parameters zero."""
    for parameter in layer.parameters():
        parameter.zero_()
    return layer


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put ``module`` where the submodule with this name is."""
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


def fit_input_size(model: nn.Module, size: int) -> None:
    """Make a model for images of this side. timm's transformers have one size; their position embeddings are resampled.

    Models that take images of any size stay as they are. ValueError if the size is out of range or does not fit.
    """
    resize: Callable[..., None] | None = getattr(model, "set_input_size", None)
    if resize is None:
        return
    if size > MAX_INPUT_SIZE:
        raise ValueError(f"size must be at most {MAX_INPUT_SIZE} for this model. Got {size}")
    try:
        resize(img_size=(size, size))
    except (AssertionError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(f"size must fit the model's patches. Got {size}: {error}") from error


def check_head(name: str, pretrained: int, num_classes: int) -> None:
    """ValueError if pretrained weights are for another number of classes, because the last layer would be new."""
    if pretrained != num_classes:
        raise ValueError(
            f"{name} has pretrained weights for {pretrained} classes. Got num_classes={num_classes}: its last layer "
            "would be new. To train it, pass new_head=True"
        )


def cifar_resnet(num_classes: int = 10, width: int = 32) -> nn.Module:
    """A small residual network for images of 32 pixels: 4x4 stem of stride 2, three stages of one block, mean pooling.

    torchvision's models start with strides that are made for 224 pixels. At width 32 this network has 0.7 M parameters
    and takes 45 MFLOP for an image of 32x32 pixels.
    """
    num_classes, width = as_integer("num_classes", num_classes, 1), as_integer("width", width, 1)
    return nn.Sequential(
        _convolution(3, width, kernel_size=4, stride=2),
        _Residual(width),
        _convolution(width, 2 * width, stride=2),
        _Residual(2 * width),
        _convolution(2 * width, 4 * width, stride=2),
        _Residual(4 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, num_classes),
    )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(_convolution(width, width), _convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


def _convolution(inputs: int, outputs: int, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel_size, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
