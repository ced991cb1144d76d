"""A classifier goes to a Hub on the loopback and comes back; what is in the model card; and what a Hub may not send."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from diffaug_transforms.classifiers import (
    NormalizedClassifier,
    build_model,
    load_classifier,
    push_classifier_to_hub,
    save_classifier,
)
from diffaug_transforms.classifiers.sharing import model_card, without_folders
from diffaug_transforms.classifiers.storage import read_config
from diffaug_transforms.versions import versions
from tests.hub_server import run_python, serve_hub

DEAD = "http://127.0.0.1:9"
NAMES = ["cat", "/dog/1", "owl|barn"]
# The client's waits between its retries are skipped; the retries are not.
LOAD = """
import time, torch
time.sleep = lambda seconds: None
from diffaug_transforms.classifiers import load_classifier
try:
    classifier = load_classifier({name!r}, **{options!r})
    print("SUM", classifier(torch.linspace(0, 1, 3 * 16 ** 2).reshape(1, 3, 16, 16)).double().sum().item())
except Exception as error:
    print(type(error).__name__, " ".join(str(error).split()))
"""


def load(name: str, url: str, home: Path, **options: object) -> str:
    return run_python(LOAD.format(name=name, options=options), url, home)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A training folder with more in it than the classifier."""
    torch.manual_seed(0)
    classifier = NormalizedClassifier(build_model("cifar_resnet-8", 3), [0.5], [0.5]).eval()
    arguments = {"recipe": "diffaug", "data": "uoft-cs/cifar10", "size": 16, "output": "/home/somebody/runs/a"}
    more = {"test_accuracy": 82.781, "images": 640, "arguments": arguments}
    command = "python examples/train_classifier.py --output /home/somebody/runs/a"
    save_classifier(classifier, tmp_path / "run", "cifar_resnet-8", classes=NAMES, command=command, **more)
    (tmp_path / "run" / "checkpoint.pt").write_text("not for others")
    return tmp_path / "run"


def test_a_pushed_classifier_comes_back_and_stays_in_the_cache(folder, tmp_path):
    code = f"""
from diffaug_transforms.classifiers import push_classifier_to_hub
print(push_classifier_to_hub({str(folder)!r}, "me/x", token="hf_secret"))
"""
    repo, home = tmp_path / "repo", tmp_path / "home"
    repo.mkdir()
    with serve_hub({}) as hub:
        assert "/me/x/" in run_python(code, hub.url, home)
        assert set(hub.uploaded) == {"README.md", "classifier.json", "model.safetensors"}
        for name, content in hub.uploaded.items():
            (repo / name).write_bytes(content)
            assert b"somebody" not in content
    assert json.loads((repo / "classifier.json").read_text())["classes"] == NAMES
    assert (repo / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    expected = load_classifier(folder)(torch.linspace(0, 1, 3 * 16**2).reshape(1, 3, 16, 16)).double().sum().item()
    with serve_hub({"me/x": repo}) as hub:
        line = load("me/x", hub.url, home)
        assert float(line.removeprefix("SUM ")) == pytest.approx(expected, abs=1e-4)
    assert load("me/x", DEAD, home, local_files_only=True) == line


def test_what_a_repository_may_not_hold(folder, tmp_path):
    """Wrong words are refused before the weights are downloaded; weights that were changed, by their checksum."""
    with serve_hub({"me/x": folder}) as hub:
        path = folder / "classifier.json"
        good = path.read_text()
        path.write_text(good.replace("cifar_resnet-8", "timm/hf-hub:somebody/model"))
        line = load("me/x", hub.url, tmp_path / "one")
        assert line.startswith("ValueError")
        assert "name must be a torchvision classifier" in line
        path.unlink()
        line = load("me/x", hub.url, tmp_path / "two")
        assert line.startswith("ValueError me/x must hold classifier.json")
        assert not any("model.safetensors" in request for request in hub.requests if "resolve" in request)
        path.write_text(good)
        weights = folder / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        assert "not those that were written, by their checksum" in load("me/x", hub.url, tmp_path / "three")


def test_a_hub_that_does_not_answer_says_that_there_is_no_folder_either(tmp_path):
    line = load("runs/a", DEAD, tmp_path / "home")
    assert line.startswith("OSError there is no folder runs/a, and downloading classifier.json of runs/a")
    assert "cifar10-baseline or cifar10-diffaug" in line


def test_the_card_says_what_the_folder_says(folder):
    config = read_config(folder / "classifier.json")
    card = model_card({**config, "command": without_folders(config["command"])}, "me/x")
    assert card.startswith("---\npipeline_tag: image-classification\n")
    assert "\ndatasets: [uoft-cs/cifar10]\n---\n# x\n" in card
    rows = ("recipe | diffaug", "image size | 16 x 16 pixels", "test accuracy | 82.78 %", "training images seen | 640")
    for row in (*rows, "classes | 3: cat, /dog/1, owl\\|barn"):
        assert f"| {row} |\n" in card
    assert f"torch {versions()['torch']}" in card
    assert "python examples/train_classifier.py --output a\n" in card
    code = card[card.index("```python\n") + len("```python\n") :].partition("```")[0]
    namespace: dict[str, object] = {}
    exec(code.replace('"me/x"', repr(str(folder))), namespace)
    assert set(namespace["names"]) <= set(NAMES)


def test_a_bare_folder_has_a_card_too(folder):
    config = read_config(folder / "classifier.json")
    card = model_card({key: config[key] for key in ("name", "classes")} | {"arguments": {}}, "me/x")
    assert "| model | `cifar_resnet-8` |" in card
    assert "None" not in card
    assert "How it was trained" not in card


def test_without_folders():
    assert without_folders("/home/me/x") == "x"
    mixed = ["a --data /data/imagenet/ --lr 1/2", {"b": "/data"}]
    assert without_folders(mixed) == ["a --data imagenet/ --lr 1/2", {"b": "data"}]
    for kept in ("uoft-cs/cifar10", "runs/a", "../b/c", "s3://bucket/train", "https://a.b/c/d", 3, None):
        assert without_folders(kept) == kept


def test_nothing_damaged_is_sent(folder, tmp_path):
    config = folder / "classifier.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "name": "cifar_resnet-4"}))
    with pytest.raises(OSError, match="is damaged or does not fit the model"):
        push_classifier_to_hub(folder, "me/x")
    with pytest.raises(OSError, match="there is no folder"):
        push_classifier_to_hub(tmp_path / "missing", "me/x")
    with pytest.raises(ValueError, match=r"repo must be owner/name. Got 'x'"):
        push_classifier_to_hub(folder, "x")
