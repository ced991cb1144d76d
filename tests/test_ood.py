"""The OOD detector: its features and scores beside those made step by step, fitting, and wrong input."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms.v2 import functional as F

from diffaug_transforms.classifiers import NormalizedClassifier, build_model
from diffaug_transforms.robustness.ood import OODDetector
from diffaug_transforms.robustness.ood_rules import OOD_METHODS, ash_b, ash_p, ash_s, energy, max_softmax, scale


def assert_close(actual, expected):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=1e-5, atol=1e-6)


def images(batch=6, size=16, seed=0):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 20), nn.ReLU(), nn.Linear(20, 5)).eval()


def by_hand(method, features, head, threshold):
    """The score of features, step by step."""
    shaped = {
        "msp": features,
        "react": features.clip(max=threshold),
        "ash-b": ash_b(features, 90),
        "ash-p": ash_p(features, 90),
        "ash-s": ash_s(features, 90),
        "scale": scale(features, 85),
    }[method]
    logits = shaped @ head.weight.T + head.bias
    if method == "msp":
        return -(logits.exp() / logits.exp().sum(1, keepdim=True)).max(1).values
    return -logits.exp().sum(1).log()


@pytest.mark.parametrize("method", OOD_METHODS)
def test_detector_of_a_tiny_model(network, method):
    hidden = network[1]
    pixels = images()
    features = (pixels.flatten(1) @ hidden.weight.T + hidden.bias).clamp(min=0)
    detector = OODDetector(network, "3", method).fit(features)
    assert_close(detector.features(pixels), features)
    threshold = float(np.percentile(features.detach().numpy(), 90))
    scores = detector(pixels)
    assert (scores.shape, scores.dtype) == ((6,), torch.float32)
    assert_close(scores, by_hand(method, features, network[3], threshold))
    assert_close(detector.score(features), scores)
    assert detector(pixels[:0]).shape == (0,)


@pytest.mark.parametrize("method", OOD_METHODS)
def test_detector_of_a_residual_network(samples, method):
    """uint8 images, normalised inside the classifier or by the detector; features from the layers one by one."""
    torch.manual_seed(0)
    model = build_model("cifar_resnet-8", 10).eval()
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]
    features = model[:8](F.normalize(samples / 255, mean, std))
    assert features.shape == (8, 32)
    expected = by_hand(method, features, model[8], float(np.percentile(features.detach().numpy(), 90)))
    outside = OODDetector(model, "8", method, normalize=(mean, std)).fit(samples)
    inside = OODDetector(NormalizedClassifier(model, mean, std), "model.8", method).fit(samples)
    assert_close(outside(samples), expected)
    assert_close(inside(samples), expected)


def test_maps_are_averaged_before_a_convolution():
    torch.manual_seed(0)
    head = nn.Conv2d(7, 5, 1)
    model = nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), head, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    features = model[:2](images()).mean((2, 3))
    linear = nn.Linear(7, 5)
    linear.weight.data, linear.bias.data = head.weight.data.flatten(1), head.bias.data
    detector = OODDetector(model, "2", "ash-s", percentile=60)
    assert_close(detector.features(images()), features)
    assert_close(detector(images()), -energy(linear(ash_s(features, 60))))


def test_torchvision_layers_by_name():
    model = build_model("resnet18", 5).eval()
    detector = OODDetector(model, "fc", "msp")
    assert detector.features(images(size=32)).shape == (6, 512)
    assert_close(detector(images(size=32)), -max_softmax(model(images(size=32))))


def test_higher_is_out_of_distribution():
    """A sure image scores below an unsure one with every method."""
    head = nn.Linear(20, 2, bias=False)
    head.weight.data = torch.stack([torch.ones(20), -torch.ones(20)])
    features = torch.rand(1, 20, generator=torch.Generator().manual_seed(0)) * torch.tensor([[3.0], [0.1]])
    for method in OOD_METHODS:
        sure, unsure = OODDetector(nn.Sequential(head), "0", method).fit(features).score(features)
        assert sure < unsure


def test_fit_takes_features_images_and_loaders(network):
    pixels = images(10)
    features = OODDetector(network, "3").features(pixels).detach()
    expected = float(np.percentile(features.numpy(), 70))
    loaders = [
        DataLoader(pixels, batch_size=4),
        DataLoader(TensorDataset(pixels, torch.zeros(10)), batch_size=4),
        [pixels[:3], pixels[3:]],
    ]
    for data in (features, pixels, *loaders):
        detector = OODDetector(network, "3", "react", percentile=70).fit(data)
        assert float(detector.threshold) == pytest.approx(expected, rel=1e-5)
        assert not detector.threshold.requires_grad
    edges = [OODDetector(network, "3", "react", percentile=p).fit(features).threshold for p in (0, 100)]
    assert edges == [features.min(), features.max()]


def test_fit_changes_nothing_for_other_methods(network):
    detector = OODDetector(network, "3", "scale")
    before = detector(images())
    assert torch.equal(detector.fit(images(10))(images()), before)


def test_percentile_changes_the_score(network):
    loose, tight = (OODDetector(network, "3", "ash-p", percentile=p)(images()) for p in (20, 95))
    assert not torch.allclose(loose, tight)
    assert_close(OODDetector(network, "3", "ash-p", percentile=0)(images()), -energy(network(images())))


def test_threshold_is_saved(network):
    detector = OODDetector(network, "3", "react").fit(images())
    other = OODDetector(network, "3", "react")
    other.load_state_dict(detector.state_dict())
    pickled = pickle.loads(pickle.dumps(detector))
    assert torch.equal(other(images()), detector(images()))
    assert torch.equal(pickled(images()), detector(images()))
    assert "layer='3', method='react', percentile=90" in repr(detector)


def test_gradients_and_hooks(network):
    """A score has gradients by the image, and the classifier is left without hooks."""
    pixels = images().requires_grad_()
    OODDetector(network, "3", "ash-s")(pixels).sum().backward()
    assert pixels.grad.abs().sum() > 0
    assert not network[3]._forward_hooks


def test_low_precision(network):
    expected = OODDetector(network, "3", "scale")(images())
    with torch.autocast("cpu", torch.bfloat16):
        scores = OODDetector(network, "3", "scale")(images())
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "ash"}, "method must be one of msp, react, ash-b, ash-p, ash-s, scale. Got 'ash'"),
        ({"layer": "fc"}, "layer must name the classifier's last layer; its last linear ones: 1, 3. Got 'fc'"),
        ({"layer": ""}, "Got ''"),
        ({"percentile": 101}, "percentile must be in [0, 100]. Got 101"),
        ({"percentile": -1}, "Got -1"),
        ({"percentile": math.nan}, "Got nan"),
        ({"method": "msp", "percentile": 90}, "msp takes no percentile. Got 90"),
    ],
    ids=str,
)
def test_wrong_arguments(network, arguments, message):
    with pytest.raises(ValueError) as caught:
        OODDetector(network, **{"layer": "3", **arguments})
    assert message in str(caught.value)


def test_a_classifier_without_linear_layers():
    with pytest.raises(ValueError, match="linear ones: none. Got 'fc'"):
        OODDetector(nn.Flatten(), "fc")
    with pytest.raises(ValueError, match="classifier must have a linear layer, or layer name its last. Got Flatten"):
        OODDetector(nn.Flatten())


def test_the_last_linear_layer_is_the_default(network):
    assert OODDetector(network).layer == "3"
    assert torch.equal(OODDetector(network)(images()), OODDetector(network, "3")(images()))


def test_wrong_layers(network):
    with pytest.raises(ValueError, match=r"Got '1', which makes \[\(6, 20\)\], and logits \(6, 5\)"):
        OODDetector(network, "1")(images())
    unused = nn.Sequential(nn.Flatten(), nn.Linear(768, 5))
    unused[1].register_module("inner", nn.Linear(5, 5))
    with pytest.raises(ValueError, match=r"called once for a batch. Got '1.inner', which makes \[\], and"):
        OODDetector(unused, "1.inner")(images())
    repeated = nn.Linear(5, 5)
    twice = nn.Sequential(nn.Flatten(), nn.Linear(768, 5), repeated, repeated)
    with pytest.raises(ValueError, match=r"Got '2', which makes \[\(6, 5\), \(6, 5\)\]"):
        OODDetector(twice, "2")(images())


def test_wrong_images(network):
    detector = OODDetector(network, "3")
    with pytest.raises(TypeError, match="Got torch.int64"):
        detector(images().long())
    with pytest.raises(ValueError, match=r"in \[0, 1\]. Got"):
        detector(images() - 0.5)


def test_not_fitted(network):
    with pytest.raises(ValueError, match="react must be fitted to in-distribution images: call fit"):
        OODDetector(network, "3", "react")(images())
    for data in ([], torch.empty(0, 20), torch.tensor([[1.0, math.nan]]), torch.tensor([[1.0, math.inf]])):
        with pytest.raises(ValueError, match="fit needs finite features of at least one image. Got shape"):
            OODDetector(network, "3", "react").fit(data)
