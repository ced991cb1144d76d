"""Classifiers by name, and the folders that training writes: safetensors, and JSON with all that rebuilds them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms.v2 import functional as F

from .airbench import Airbench
from .arguments import (
    as_integer,
    as_names,
    as_normalize,
    as_optional_integer,
    as_path,
    check_classifier,
    check_flags,
    check_instance,
)
from .classify import to_own_dtype
from .files import (
    Rule,
    add_checksum,
    check_entries,
    check_finite,
    integer,
    load_pickle,
    load_safetensors,
    number,
    optional,
    read_json,
    reading,
    several,
    text,
    writing,
)
from .images import ASSETS, check_channels

#: Classifiers inside the package: `cifar_resnet-32`, trained by benchmarks/train_cifar10.py (seed 0).
EMBEDDED = ("cifar10-baseline", "cifar10-diffaug")
#: What ``classifier.json`` may say.
RULES: dict[str, Rule] = {
    "name": text(),
    "mean": several(number(-1e3, 1e3), 64),
    "std": several(number(1e-6, 1e3), 64),
    "classes": several(text(), 1_000_000),
}
#: The largest images, by their side in pixels, of models that have position embeddings.
MAX_INPUT_SIZE = 1024
#: The widest ``cifar_resnet`` that a file may name.
MAX_FILE_WIDTH = 512
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
        new_head: allow a pretrained model with another number of classes. It gets a new last layer with random weights,
            which must be trained before its answers mean anything.

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
            config = timm.models.get_pretrained_cfg(bare) if pretrained and not new_head else None
            if config:
                check_head(name, config.num_classes, num_classes)
            return timm.create_model(bare, pretrained=pretrained, num_classes=num_classes)
        except RuntimeError as error:
            raise ValueError(f"timm cannot make the model {name!r} (see timm.list_models()): {error}") from error
    if name not in models.list_models(module=models):
        raise ValueError(
            f"model must be a torchvision classifier, timm/NAME, airbench94 or cifar_resnet-WIDTH. Got {name!r}"
        )
    if not pretrained:
        return models.get_model(name, num_classes=num_classes)
    model = models.get_model(name, weights="DEFAULT")
    path, last = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    if not new_head:
        check_head(name, last.out_features, num_classes)
    if last.out_features != num_classes:
        parent, _, attribute = path.rpartition(".")
        setattr(model.get_submodule(parent), attribute, nn.Linear(last.in_features, num_classes))
    return model


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
    """ValueError if pretrained weights are for another number of classes, because the last layer would be random."""
    if pretrained != num_classes:
        raise ValueError(
            f"{name} has pretrained weights for {pretrained} classes. Got num_classes={num_classes}: its last layer "
            "would be random. To train it, pass new_head=True"
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


def save_classifier(classifier: NormalizedClassifier, folder: str | Path, name: str, **metadata: Any) -> None:
    """Write a folder for ``load_classifier``: ``model.safetensors`` and ``classifier.json``.

    Args:
        folder: made if it is missing.
        name: of the model, as ``build_model`` takes it.
        metadata: more entries for ``classifier.json``. ``load_classifier`` needs ``classes``, the names of the classes.
    """
    check_instance("classifier", classifier, NormalizedClassifier)
    check_instance("name", name, str)
    config = {"name": name, "mean": classifier.mean, "std": classifier.std, **metadata}
    with writing(as_path("folder", folder)) as new:
        save_model(classifier.model, str(new / "model.safetensors"))
        add_checksum(new / "model.safetensors")
        (new / "classifier.json").write_text(json.dumps(config, indent=1, default=str) + "\n")


def load_classifier(folder: str | Path) -> NormalizedClassifier:
    """Load a classifier from a folder that ``examples/train_classifier.py`` wrote, in eval mode.

    Args:
        folder: a path, or the name of an embedded CIFAR-10 classifier: "cifar10-baseline" or "cifar10-diffaug". Both
            were trained further from the same weights, by the recipe in their name. Both have a clean accuracy of 83 %.

    Raises:
        OSError: the folder or one of its two files is missing or damaged. ValueError: ``classifier.json`` says
            something that is not supported. A file can name no model of the Hub.

    Example:
        >>> classifier = load_classifier("cifar10-diffaug")
        >>> robust = DiffAugEnsemble(classifier)
        >>> classifier.classes[robust(torch.rand(1, 3, 32, 32)).argmax()] in classifier.classes
        True
    """
    name = str(as_path("folder", folder))
    folder = ASSETS / "classifiers" / name if name in EMBEDDED else Path(folder)
    if missing := [name for name in ("classifier.json", "model.safetensors") if not (folder / name).is_file()]:
        known = "a folder written by examples/train_classifier.py, " + " or ".join(EMBEDDED)
        raise OSError(f"{folder} must be {known}. Missing: {missing}{hint_for_names(name)}")
    path, weights = folder / "classifier.json", folder / "model.safetensors"
    config = read_json(path)
    lacking = [key for key in RULES if key not in config]
    if lacking:
        raise ValueError(f"{path} must have the entries {', '.join(RULES)}. Missing: {lacking}")
    check_entries(config, RULES, path)
    for key in ("mean", "std"):
        if len(config[key]) not in (1, 3):
            raise ValueError(f"{path}: {key} must be one number, or one for each of three channels. Got {config[key]}")
    check_file_name(config["name"], path)
    arguments = config.get("arguments")
    size = arguments.get("size") if isinstance(arguments, dict) else None
    check_entries({"size": size}, {"size": optional(integer(1, 8192))}, path)
    try:
        model = build_model(config["name"], len(config["classes"]))
        if size is not None:
            fit_input_size(model, size)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    load_weights(model, weights)
    return NormalizedClassifier(model, config["mean"], config["std"], config["classes"], size).eval()


def hint_for_names(name: str) -> str:
    """What to do with the name of a library's model where a folder is needed; "" for anything else."""
    if name not in models.list_models(module=models) and not name.startswith("timm/"):
        return ""
    made = f"build_model({name!r}, 1000, pretrained=True)"
    return f". For a library's model: NormalizedClassifier({made}, IMAGENET_MEAN, IMAGENET_STD).eval()"


def check_file_name(name: str, path: Path) -> None:
    """ValueError unless a file's model name is one that needs nothing from elsewhere.

    timm reads names such as ``hf-hub:owner/name`` and ``local-dir:folder`` as places to load from.
    """
    own, _, width = name.partition("-")
    too_wide = own == "cifar_resnet" and width.isdecimal() and int(width[:9]) > MAX_FILE_WIDTH
    if too_wide or not re.fullmatch(r"(timm/)?[\w.-]+", name):
        raise ValueError(
            f"{path}: name must be a torchvision classifier, timm/NAME or cifar_resnet-WIDTH with a width of at most "
            f"{MAX_FILE_WIDTH}. Got {name[:100]!r}"
        )


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load weights into a model, from a training folder, a ``.safetensors`` file, or a ``.pt`` or ``.pth`` file.

    OSError if the file is missing or damaged, does not fit the model, or holds NaN or infinite values.
    """
    path = as_path("path", path)
    path = path / "model.safetensors" if path.is_dir() else path
    with reading(path, "is damaged or does not fit the model"):
        if path.suffix == ".safetensors":
            load_safetensors(path)  # for its checksum: load_model knows tied weights, but no checksum
            load_model(model, str(path))
        else:
            state = load_pickle(path)
            state = state.get("state_dict", state)
            model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    check_finite(model.state_dict(), path)
