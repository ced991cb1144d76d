"""Classifiers by name, their folders, and the errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import nn
from torchvision import models

from diffaug_transforms import DiffAugEnsemble
from diffaug_transforms.classifiers import (
    EMBEDDED,
    NormalizedClassifier,
    build_model,
    cifar_resnet,
    load_classifier,
    load_weights,
    save_classifier,
)
from diffaug_transforms.classifiers.models import last_linear
from diffaug_transforms.classifiers.storage import classes_in_file
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


def test_mean_and_std_are_neither_saved_nor_cast():
    classifier = small()
    images, mean = torch.rand(2, 3, 16, 16), classifier.mean
    assert set(classifier.state_dict()) == {f"model.{name}" for name in classifier.model.state_dict()}
    seen = []
    classifier.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    classifier(images)
    classifier.double()(images)
    classifier.half().float()(images)
    assert torch.equal(seen[0], seen[1].float())
    assert torch.equal(seen[0], seen[2])
    assert classifier.mean == mean == [0.5, 0.4, 0.3]


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


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_weights_of_other_classes_set_the_last_layer_to_zero(tmp_path, name):
    published, path = build_model("cifar_resnet-8", 1000), tmp_path / name
    save_model(published, str(path)) if name.endswith(".safetensors") else torch.save(published.state_dict(), path)
    model = build_model("cifar_resnet-8", 3)
    with pytest.raises(OSError, match="does not fit the model"):
        load_weights(model, path)
    load_weights(model, path, new_head=True)
    assert model[8].weight.shape == (3, 32)
    assert not model[8].weight.any()
    assert not model[8].bias.any()
    assert torch.equal(model[0][0].weight, published[0][0].weight)
    load_weights(build_model("cifar_resnet-8", 1000), path, new_head=True)  # of as many classes: all of it
    with pytest.raises(OSError, match="does not fit the model"):
        load_weights(wider := build_model("cifar_resnet-12", 3), path, new_head=True)
    assert wider(torch.rand(1, 3, 32, 32)).shape == (1, 3)


def test_a_model_without_a_linear_last_layer_says_so():
    with pytest.raises(ValueError, match="SqueezeNet has no linear layer"):
        last_linear(models.squeezenet1_0())
    assert classes_in_file(models.squeezenet1_0(), Path("nowhere.pth")) is None


def test_torchvisions_models_and_a_last_layer_for_other_classes(monkeypatch):
    assert build_model("resnet18", 7).fc.out_features == 7
    pretrained = models.mobilenet_v3_small()
    monkeypatch.setattr(models, "get_model", lambda name, weights: pretrained)
    last = pretrained.classifier[3].weight
    assert build_model("mobilenet_v3_small", 1000, pretrained=True).classifier[3].weight is last
    with pytest.raises(ValueError, match="weights for 1000 classes. Got num_classes=4: .* pass new_head=True"):
        build_model("mobilenet_v3_small", 4, pretrained=True)
    model = build_model("mobilenet_v3_small", 4, pretrained=True, new_head=True)
    assert model is pretrained
    assert not model.classifier[3].weight.any()
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 4)


def test_timms_models():
    pytest.importorskip("timm")
    assert build_model("timm/resnet10t", 5).eval()(torch.rand(1, 3, 32, 32)).shape == (1, 5)


def test_a_pretrained_timm_model_without_a_head_for_the_classes_is_refused(monkeypatch):
    timm = pytest.importorskip("timm")
    made, create = [], timm.create_model

    def instead_of_the_download(name: str, pretrained: bool, num_classes: int) -> nn.Module:
        made.append(num_classes)
        return create("resnet10t", num_classes=num_classes)

    monkeypatch.setattr(timm, "create_model", instead_of_the_download)
    name = "timm/vit_tiny_patch16_224.augreg_in21k"
    with pytest.raises(ValueError, match=f"{name} has pretrained weights for 21843 classes. Got num_classes=1000"):
        build_model(name, 1000, pretrained=True)
    assert not made
    assert not build_model(name, 1000, pretrained=True, new_head=True).fc.weight.any()
    assert build_model(name, 21843, pretrained=True).fc.weight.any()
    build_model("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", 1000, pretrained=True)
    assert made == [1000, 21843, 1000]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_classifier_in_its_own_dtype(dtype):
    images = torch.rand(2, 3, 32, 32)
    expected = small()(images)
    logits = small().to(dtype)(images)
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.05)


BAD_CALLS = [
    (lambda: NormalizedClassifier("resnet18", MEAN, STD), "classifier must be a module .* Got 'resnet18'"),
    (lambda: NormalizedClassifier(nn.Flatten(), MEAN, (0.2, 0.0, 0.5)), "std must be finite and above 0. Got 0.0"),
    (lambda: NormalizedClassifier(nn.Flatten(), (0.5, float("nan"), 0.5), STD), "mean must be finite. Got nan"),
    (lambda: NormalizedClassifier(nn.Flatten(), "imagenet", STD), "mean must be a number. Got 'imagenet'"),
    (lambda: NormalizedClassifier(nn.Flatten(), MEAN, STD, classes="cat"), "classes must be a list of names"),
    (lambda: NormalizedClassifier(nn.Flatten(), MEAN, STD, size=32.0), "size must be an integer. Got 32.0"),
    (lambda: NormalizedClassifier(nn.Flatten(), MEAN, STD)(torch.ones(1, 3, 4, 4).long()), "images must be uint8"),
    (lambda: build_model(None, 10), "name must be a str. Got None"),
    (lambda: build_model("resnet18", 0), "num_classes must be at least 1. Got 0"),
    (lambda: build_model("resnet18", 10.0), "num_classes must be an integer. Got 10.0"),
    (lambda: build_model("resnet18", 10, pretrained="DEFAULT"), "pretrained must be True or False. Got 'DEFAULT'"),
    (lambda: cifar_resnet(width=0), "width must be at least 1. Got 0"),
    (lambda: save_classifier(nn.Flatten(), "x", "resnet18"), "classifier must be a NormalizedClassifier. Got Flatten"),
    (lambda: save_classifier(small(), None, "resnet18"), "folder must be a path. Got None"),
    (lambda: load_weights(small(), 5), "path must be a path. Got 5"),
    (lambda: load_classifier(None), "folder must be a path. Got None"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_bad_arguments(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18.a1_in1k"])
def test_a_library_models_name_is_told_what_does_it(name):
    with pytest.raises(OSError, match=rf"NormalizedClassifier\(build_model\('{name}', 1000, pretrained=True\)"):
        load_classifier(name)


def test_one_mean_for_all_channels():
    images = torch.rand(2, 3, 4, 4)
    one, three = (NormalizedClassifier(nn.Flatten(), *stats) for stats in ((0.5, 0.2), ([0.5] * 3, [0.2] * 3)))
    assert torch.equal(one(images), three(images))


def test_what_cannot_be_built_or_loaded(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="timm/NAME, airbench94 or cifar_resnet-WIDTH. Got 'resnet51'"):
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
