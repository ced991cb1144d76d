"""Classifiers by name, their folders, and the errors."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import load_model
from torch import nn
from torchvision import models

from diffaug_transforms import DiffAugEnsemble
from diffaug_transforms.classifiers import (
    EMBEDDED,
    NormalizedClassifier,
    build_model,
    load_classifier,
    load_weights,
    save_classifier,
)
from diffaug_transforms.images import sample_images, to_batch

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


def small() -> NormalizedClassifier:
    torch.manual_seed(0)
    return NormalizedClassifier(build_model("cifar_resnet-8", 3), MEAN, STD).eval()


def test_images_are_normalised():
    classifier = NormalizedClassifier(nn.Flatten(), MEAN, STD)
    pixel = torch.tensor([1.0, 0.4, 0.55]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(classifier(pixel), torch.tensor([[2.5, 0.0, 0.5]]))
    torch.testing.assert_close(classifier((255 * pixel).byte()), torch.tensor([[2.5, 0.0, 0.5]]), rtol=0, atol=0.02)


def test_a_folder_loads_into_the_ensemble_and_into_the_bare_model(tmp_path, network):
    classifier = small()
    save_classifier(classifier, tmp_path / "run", "cifar_resnet-8", classes=["cat", "dog", "owl"], seconds=1.0)
    loaded = load_classifier(tmp_path / "run")
    images = torch.rand(2, 3, 16, 16)
    assert not loaded.training
    assert torch.equal(loaded(images), classifier(images))
    assert DiffAugEnsemble(loaded, network)(images).shape == (2, 3)
    bare = build_model("cifar_resnet-8", 3)
    load_model(bare, str(tmp_path / "run" / "model.safetensors"))
    assert torch.equal(bare.state_dict()["8.weight"], classifier.model.state_dict()["8.weight"])


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_classifiers_know_the_sample_images(name):
    classifier = load_classifier(name)
    images = sample_images()
    batch = torch.cat([to_batch(image) for image in images.values()])
    found = [classifier.classes[index] for index in classifier(batch).argmax(1)]
    assert sum(guess == label for guess, label in zip(found, images)) >= 7


@pytest.mark.parametrize("name", ["folder", "weights.safetensors", "weights.pth"])
def test_weights_to_start_from(tmp_path, name):
    classifier, path = small(), tmp_path / name
    save_classifier(classifier, tmp_path / "folder", "cifar_resnet-8", classes=["a", "b", "c"])
    if name.endswith(".pth"):
        # As torchvision's reference scripts write them, from DataParallel.
        state = {f"module.{key}": value for key, value in classifier.model.state_dict().items()}
        torch.save({"state_dict": state, "epoch": 3}, path)
    elif name.endswith(".safetensors"):
        (tmp_path / "folder" / "model.safetensors").rename(path)
    model = build_model("cifar_resnet-8", 3)
    load_weights(model, path)
    assert torch.equal(model.state_dict()["8.weight"], classifier.model.state_dict()["8.weight"])


def test_torchvisions_models_and_a_last_layer_for_other_classes(monkeypatch):
    assert build_model("resnet18", 7).fc.out_features == 7
    pretrained = models.mobilenet_v3_small()
    monkeypatch.setattr(models, "get_model", lambda name, weights: pretrained)
    last = pretrained.classifier[3].weight
    assert build_model("mobilenet_v3_small", 1000, pretrained=True).classifier[3].weight is last
    model = build_model("mobilenet_v3_small", 4, pretrained=True)
    assert model is pretrained
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 4)


def test_timms_models():
    pytest.importorskip("timm")
    assert build_model("timm/resnet10t", 5).eval()(torch.rand(1, 3, 32, 32)).shape == (1, 5)


def test_what_cannot_be_built_or_loaded(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="torchvision classifier, timm/NAME or cifar_resnet-WIDTH. Got 'resnet51'"):
        build_model("resnet51", 10)
    with pytest.raises(ValueError, match="cifar_resnet-WIDTH. Got 'cifar_resnet-wide'"):
        build_model("cifar_resnet-wide", 10)
    with pytest.raises(ValueError, match="no pretrained weights for cifar_resnet-8"):
        build_model("cifar_resnet-8", 10, pretrained=True)
    with pytest.raises(OSError, match="Missing: \\['classifier.json', 'model.safetensors'\\]"):
        load_classifier(tmp_path)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"diffaug-transforms\[train\]"):
        build_model("timm/resnet18", 10)
