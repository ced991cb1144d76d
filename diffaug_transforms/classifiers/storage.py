"""Folders with a trained classifier: safetensors, and JSON with all that rebuilds it. On this machine or on the Hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model
from torch import nn
from torchvision import models

from ..arguments import as_path, check_flags, check_instance
from ..files import (
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
from ..hub import ADVICE, download_folder
from ..images import ASSETS
from ..versions import versions
from .models import NormalizedClassifier, build_model, fit_input_size, last_linear, replace_module, set_to_zero

#: Classifiers inside the package: `cifar_resnet-32`, trained by benchmarks/train_cifar10.py (seed 0).
EMBEDDED = ("cifar10-baseline", "cifar10-diffaug")
#: The two files of a folder.
CONFIG, WEIGHTS = "classifier.json", "model.safetensors"
#: The name of a Hub repository.
REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
CLASSIFIER_ADVICE = f"{ADVICE}, or use an embedded classifier: {' or '.join(EMBEDDED)}."
#: What ``classifier.json`` may say.
RULES: dict[str, Rule] = {
    "name": text(),
    "mean": several(number(-1e3, 1e3), 64),
    "std": several(number(1e-6, 1e3), 64),
    "classes": several(text(), 1_000_000),
}
#: What is wrong with a file of weights that cannot be loaded.
DAMAGED = "is damaged or does not fit the model"
#: The widest ``cifar_resnet`` that a file may name.
MAX_FILE_WIDTH = 512


def save_classifier(classifier: NormalizedClassifier, folder: str | Path, name: str, **metadata: Any) -> None:
    """Write a folder for ``load_classifier``: ``model.safetensors`` and ``classifier.json``.

    Args:
        folder: made if it is missing.
        name: of the model, as ``build_model`` takes it.
        metadata: more entries for ``classifier.json``. ``load_classifier`` needs ``classes``, the names of the classes.
            ``push_classifier_to_hub`` makes its model card of them.
    """
    check_instance("classifier", classifier, NormalizedClassifier)
    check_instance("name", name, str)
    config = {"name": name, "mean": classifier.mean, "std": classifier.std, "versions": versions(), **metadata}
    with writing(as_path("folder", folder)) as new:
        save_model(classifier.model, str(new / WEIGHTS))
        add_checksum(new / WEIGHTS)
        (new / CONFIG).write_text(json.dumps(config, indent=1, default=str) + "\n")


def load_classifier(
    folder: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> NormalizedClassifier:
    """Load a classifier that ``examples/train_classifier.py`` wrote, in eval mode.

    Args:
        folder: a path, a Hub repository (owner/name) of ``push_classifier_to_hub``, or the name of an embedded CIFAR-10
            classifier: "cifar10-baseline" or "cifar10-diffaug". Both of these were trained further from the same
            weights, by the recipe in their name. Both have a clean accuracy of 83 %.
        revision: of the Hub repository; None: main.
        token: for private repositories; None: the one that ``hf auth login`` stored.
        local_files_only: use the Hub's cache only, ask no server.

    Raises:
        OSError: the folder or one of its two files is missing or damaged, or the Hub cannot be reached. ValueError:
            ``classifier.json`` says something that is not supported, or the repository has none. A file can name no
            model of the Hub.

    Example:
        >>> classifier = load_classifier("cifar10-diffaug")
        >>> robust = DiffAugEnsemble(classifier)
        >>> classifier.classes[robust(torch.rand(1, 3, 32, 32)).argmax()] in classifier.classes
        True
    """
    check_instance("revision", revision, (str, type(None)))
    check_instance("token", token, (str, bool, type(None)))
    name = str(as_path("folder", folder))
    path = find_folder(name)
    if is_repository(name, path):
        fetched = fetch_classifier(name, revision, token, local_files_only)
        if fetched is None:
            raise ValueError(
                f"{name} must hold {CONFIG}, as push_classifier_to_hub writes it. Got a repository without"
            )
        path = fetched
    if missing := [file for file in (CONFIG, WEIGHTS) if not (path / file).is_file()]:
        known = "a folder written by examples/train_classifier.py, a Hub repository, " + " or ".join(EMBEDDED)
        raise OSError(f"{path} must be {known}. Missing: {missing}{hint_for_names(name)}")
    config = read_config(path / CONFIG)
    size = config["arguments"].get("size")
    try:
        model = build_model(config["name"], len(config["classes"]))
        if size is not None:
            fit_input_size(model, size)
    except ValueError as error:
        raise ValueError(f"{path / CONFIG}: {error}") from error
    load_weights(model, path / WEIGHTS)
    return NormalizedClassifier(model, config["mean"], config["std"], config["classes"], size).eval()


def find_folder(name: str) -> Path:
    """The folder of an embedded classifier, or the path itself."""
    return ASSETS / "classifiers" / name if name in EMBEDDED else Path(name)


def is_repository(name: str, path: Path) -> bool:
    """Whether a name can only be a Hub repository's: owner/name, no path here, no name of timm's models."""
    return bool(REPOSITORY.fullmatch(name)) and not path.exists() and not name.startswith("timm/")


def fetch_classifier(
    repo: str, revision: str | None = None, token: str | None = None, local_files_only: bool = False
) -> Path | None:
    """Download a repository's ``classifier.json``, check it, and only then its weights. None: it has no such file."""
    hub = (repo, [CONFIG], revision, token, local_files_only)
    try:
        folder = download_folder(*hub, advice=CLASSIFIER_ADVICE)
    except OSError as error:
        raise OSError(f"there is no folder {repo}, and {error}") from error
    if not (folder / CONFIG).is_file():
        return None
    read_config(folder / CONFIG)
    return download_folder(repo, [CONFIG, WEIGHTS], *hub[2:], advice=CLASSIFIER_ADVICE)


def read_config(path: Path) -> dict[str, Any]:
    """The checked content of ``classifier.json``. ValueError for what is not supported."""
    config = read_json(path)
    lacking = [key for key in RULES if key not in config]
    if lacking:
        raise ValueError(f"{path} must have the entries {', '.join(RULES)}. Missing: {lacking}")
    check_entries(config, RULES, path)
    for key in ("mean", "std"):
        if len(config[key]) not in (1, 3):
            raise ValueError(f"{path}: {key} must be one number, or one for each of three channels. Got {config[key]}")
    check_file_name(config["name"], path)
    if not isinstance(config.get("arguments"), dict):
        config["arguments"] = {}
    check_entries(config["arguments"], {"size": optional(integer(1, 8192))}, path)
    return config


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


def load_weights(model: nn.Module, path: str | Path, *, new_head: bool = False) -> None:
    """Load weights into a model, from a training folder, a ``.safetensors`` file, or a ``.pt`` or ``.pth`` file.

    Args:
        new_head: allow weights for another number of classes, such as ImageNet's. The model's last layer is then set
            to zero, and must be trained before its answers mean anything.

    Raises:
        OSError: the file is missing or damaged, does not fit the model, or holds NaN or infinite values.
        ValueError, TypeError: an argument is not as above.
    """
    path = as_path("path", path)
    check_flags(new_head=new_head)
    classes = classes_in_file(model, path) if new_head else None
    if classes is None or classes == last_linear(model)[1].out_features:
        _load(model, path)
        return
    name, head = last_linear(model)
    replace_module(model, name, nn.Linear(head.in_features, classes))
    try:
        _load(model, path)
    finally:
        replace_module(model, name, head)
    set_to_zero(head)


def classes_in_file(model: nn.Module, path: Path) -> int | None:
    """The number of classes in a file of weights for the model. None: nothing there has its last layer's name."""
    path = path / WEIGHTS if path.is_dir() else path
    try:
        name, _ = last_linear(model)
    except ValueError:
        return None
    with reading(path, DAMAGED):
        state: Any = load_safetensors(path) if path.suffix == ".safetensors" else load_pickle(path)
        state = state.get("state_dict", state)
        found = [value for key, value in state.items() if key.removeprefix("module.") == f"{name}.weight"]
        return len(found[0]) if found else None


def _load(model: nn.Module, path: Path) -> None:
    path = path / WEIGHTS if path.is_dir() else path
    with reading(path, DAMAGED):
        if path.suffix == ".safetensors":
            load_safetensors(path)  # for its checksum: load_model knows tied weights, but no checksum
            load_model(model, str(path))
        else:
            state = load_pickle(path)
            state = state.get("state_dict", state)
            model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    check_finite(model.state_dict(), path)
