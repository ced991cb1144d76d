"""A trained classifier's folder as a Hub repository: its two files, and a model card made from classifier.json."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..arguments import as_path, check_instance, listed
from ..hub import upload_folder
from .storage import CONFIG, REPOSITORY, RULES, WEIGHTS, find_folder, load_classifier, read_config

CARD = "README.md"
#: The most class names in a card.
MAX_NAMES = 20


def push_classifier_to_hub(
    folder: str | Path, repo: str, *, private: bool | None = None, token: str | None = None
) -> str:
    """Upload a classifier that ``save_classifier`` wrote, with a model card. ``load_classifier(repo)`` loads it.

    The repository gets ``model.safetensors``, ``classifier.json`` and ``README.md``, and nothing else that lies in the
    folder. Of absolute paths in ``classifier.json`` only the last part is sent. The card says what ``classifier.json``
    does: the model, recipe, data, classes, accuracy, command and versions. If the folder has a ``README.md``, that is
    the card.

    Args:
        folder: a path, or the name of an embedded classifier.
        repo: ``"owner/name"``, made if it is missing.
        private: whether a new repository is. None: what your account says.
        token: None: the one that ``hf auth login`` stored.

    Returns:
        The commit's address.

    Raises:
        OSError, ValueError: the folder holds no whole classifier, or the upload fails.
    """
    check_instance("repo", repo, str)
    if not REPOSITORY.fullmatch(repo):
        raise ValueError(f"repo must be owner/name. Got {repo!r}")
    source = find_folder(str(as_path("folder", folder)))
    if not source.is_dir():
        raise OSError(f"there is no folder {source}")
    load_classifier(source)  # so that nothing damaged is sent
    config = read_config(source / CONFIG)
    config = {key: value if key in RULES else without_folders(value) for key, value in config.items()}
    with tempfile.TemporaryDirectory() as name:
        new = Path(name)
        shutil.copyfile(source / WEIGHTS, new / WEIGHTS)
        (new / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        own = source / CARD
        card = own.read_text(encoding="utf-8") if own.is_file() else model_card(config, repo)
        (new / CARD).write_text(card, encoding="utf-8")
        return upload_folder(new, repo, private, token, "Upload classifier")


def without_folders(value: Any) -> Any:
    """A value of JSON whose absolute paths are only their last part: the rest says nothing to others."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    # A word of a command may be a path too.
    return re.sub(r"(?<![\w/:.~])(?:/[^\s/]+)*/([^\s/]+)", r"\1", value) if isinstance(value, str) else value


def model_card(config: dict[str, Any], repo: str) -> str:
    """The card, Markdown with the Hub's metadata on top, of the content of ``classifier.json``."""
    arguments, versions = config["arguments"], config.get("versions")
    size, data, accuracy = arguments.get("size"), arguments.get("data"), config.get("test_accuracy")
    versions = versions if isinstance(versions, dict) else {}
    rows = {
        "model": f"`{config['name']}`",
        "recipe": arguments.get("recipe"),
        "data": data,
        "image size": size and f"{size} x {size} pixels",
        "classes": f"{len(config['classes'])}: {listed(config['classes'], MAX_NAMES)}",
        "test accuracy": f"{accuracy:.2f} %" if isinstance(accuracy, (int, float)) else None,
        "training images seen": config.get("images"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or None,
    }
    table = "".join(f"| {name} | {cell(value)} |\n" for name, value in rows.items() if value is not None)
    command = f"\n## How it was trained\n\n```bash\n{config['command']}\n```\n" if config.get("command") else ""
    return f"""---
pipeline_tag: image-classification
tags: [diffaug, robustness, image-classification]{hub_data(data)}
---
# {repo.rpartition("/")[2]}

An image classifier, trained with diffaug_transforms. It takes images in [0, 1] and normalises them itself.

| | |
|---|---|
{table}
## How to load it

```python
import torch
from diffaug_transforms.classifiers import load_classifier

classifier = load_classifier("{repo}")
images = torch.rand(2, 3, {size or 224}, {size or 224})
names = [classifier.classes[place] for place in classifier(images).argmax(1)]
```

`DiffAugEnsemble(classifier, network)` is the same classifier for corrupted images.
{command}"""


def cell(value: Any) -> str:
    """A value on one line of a table in Markdown."""
    return " ".join(str(value).split()).replace("|", "\\|")


def hub_data(data: Any) -> str:
    """The card's metadata about the data, if they are a Hub data set."""
    known = isinstance(data, str) and REPOSITORY.fullmatch(data) and not Path(data).exists()
    return f"\ndatasets: [{data}]" if known else ""
