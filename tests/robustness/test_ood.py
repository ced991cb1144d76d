"""OOD scores: the rules by hand and beside pytorch-ood's, the detector step by step, the metrics, wrong input."""

from __future__ import annotations

import math
import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms.v2 import functional as F

from diffaug_transforms.classifiers import NormalizedClassifier, build_model
from diffaug_transforms.robustness import OOD_METHODS, OODDetector, aupr, auroc, fpr95
from diffaug_transforms.robustness.ood import ash_b, ash_p, ash_s, energy, max_softmax, react, scale

E = math.e
RULES = [ash_b, ash_p, ash_s, scale]
METRICS = (auroc, fpr95, aupr)
FEATURES = torch.tensor([[4.0, 3.0, 1.0, 0.0], [2.0, 1.5, 6.0, 1.0]])


def assert_close(actual, expected):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=1e-5, atol=1e-6)


def test_rules_by_hand():
    """k = 4 - round(4 * 50 / 100) = 2; s1, the sums, are 8 and 10.5; s2, of the two largest, 7 and 8."""
    assert_close(ash_b(FEATURES, 50), [[4, 4, 0, 0], [5.25, 0, 5.25, 0]])
    assert_close(ash_p(FEATURES, 50), [[4, 3, 0, 0], [2, 0, 6, 0]])
    first, second = E ** (8 / 7), E ** (10.5 / 8)
    assert_close(ash_s(FEATURES, 50), [[4 * first, 3 * first, 0, 0], [2 * second, 0, 6 * second, 0]])
    assert_close(
        scale(FEATURES, 50), [[4 * first, 3 * first, first, 0], [2 * second, 1.5 * second, 6 * second, second]]
    )
    assert_close(react(FEATURES, 1.5), [[1.5, 1.5, 1, 0], [1.5, 1.5, 1.5, 1]])


def test_confidences_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [1.0, 1.0]])
    assert_close(energy(logits), [math.log(4), 1 + math.log(2)])
    assert_close(max_softmax(logits), [0.75, 0.5])


def test_halves_of_k_round_to_even():
    """25 * 50 / 100 = 12.5 is 12 and 15 * 50 / 100 = 7.5 is 8, as NumPy rounds."""
    for n, k in ((25, 13), (15, 7)):
        assert (ash_p(torch.arange(1.0, n + 1)[None], 50) > 0).sum() == k
    assert ash_p(torch.ones(1, 10), 70).sum() == 3  # of equal features too


@pytest.mark.parametrize("method", [method for method in OOD_METHODS if method not in ("msp", "react")])
@pytest.mark.parametrize("percentile", [None, 50, 65])
def test_scores_are_those_of_pytorch_ood(method, percentile):
    detectors = pytest.importorskip("pytorch_ood.detector")
    head = nn.Linear(512, 10)
    features = torch.rand(16, 512) * torch.rand(16, 1)
    detector = OODDetector(nn.Sequential(nn.Identity(), head), "1", method, percentile=percentile)
    fraction = detector.percentile / 100
    options = {"percentile": fraction, **({} if method == "scale" else {"variant": method})}
    theirs = (detectors.SCALE if method == "scale" else detectors.ASH)(
        None, lambda maps: head(maps.flatten(1)), **options
    )
    before = features.clone()
    scores = detector.score(features)
    assert torch.equal(features, before)
    assert_close(scores, theirs.predict_feature_maps(before[..., None, None]))


@pytest.mark.parametrize("rule", RULES)
def test_a_row_of_zeros_stays_zeros(rule):
    features = torch.zeros(2, 4)
    features[1, 2] = 3
    shaped = rule(features, 75)
    assert torch.equal(shaped[0], torch.zeros(4))
    assert_close(shaped[1], [0, 0, 3 * (E if rule in (ash_s, scale) else 1), 0])


@pytest.mark.parametrize("rule", RULES)
def test_nothing_left(rule):
    with pytest.raises(ValueError, match=r"percentile must leave at least one of the 4 features. Got 90"):
        rule(FEATURES, 90)


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
    assert_close(outside.features(samples), features)
    for scores in (outside(samples), inside(samples), outside.score(features)):
        assert scores.dtype == torch.float32
        assert_close(scores, expected)
    assert outside(samples[:0]).shape == (0,)


@pytest.mark.parametrize("method", OOD_METHODS)
def test_detector_of_airbench94(samples, method):
    """Its logits are a ninth of the head's product with the largest features. No rule depends on their scale."""
    torch.manual_seed(0)
    model = build_model("airbench94", 10).eval()
    features = model.groups(model.whiten(samples / 255)).amax((2, 3)).detach()
    head = SimpleNamespace(weight=model.head.weight.detach() / 9, bias=0.0)
    expected = by_hand(method, features, head, float(np.percentile(features.numpy(), 90)))
    detector = OODDetector(model, method=method).fit(samples)
    assert detector.layer == "head"
    assert features.min() < 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a GELU's few negative features are not warned of
        assert_close(detector(samples), expected)
    assert_close(model(samples / 255).detach(), features @ head.weight.T)


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


def test_other_methods_need_no_fit_and_percentiles_change_the_score(network):
    detector = OODDetector(network, "3", "scale")
    before = detector(images())
    assert torch.equal(detector.fit(images(10))(images()), before)
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
    """Scores have gradients only if the images require them, and the classifier is left without hooks."""
    detector = OODDetector(network, "3", "ash-s")
    for scores in (detector(images()), detector.score(detector.features(images()))):
        assert scores.numpy().shape == (6,)
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", OOD_METHODS)
def test_classifiers_and_detectors_in_other_dtypes(network, method, dtype):
    detector = OODDetector(network, "3", method).fit(images(10))
    features, expected = detector.features(images()), detector(images())
    for other in (OODDetector(network.to(dtype), "3", method).fit(images(10)), detector.to(dtype)):
        for scores in (other(images()), other.score(features)):
            assert scores.dtype == torch.float32
            torch.testing.assert_close(scores, expected, rtol=0.05, atol=0.05)


class Halves(nn.Module):
    """Two heads whose answers are averaged, as in distilled DeiT."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(768, 20), nn.ReLU())
        self.head, self.head_dist = nn.Linear(20, 5), nn.Linear(20, 5)

    def forward(self, x):
        features = self.body(x)
        return (self.head(features) + self.head_dist(features)) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("model", "layer"),
    [
        (Halves, None),
        (lambda: nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "0"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 5), nn.Softmax(1)), None),
    ],
    ids=["two heads", "squeezenet", "softmax"],
)
def test_layers_that_do_not_give_the_logits_are_refused(model, layer, dtype):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="layer must give the classifier's own logits .* a step behind this layer"):
        OODDetector(model().to(dtype), layer)(images())


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "resnet18", "convnext_atto"])
def test_timms_models(name):
    model = pytest.importorskip("timm").create_model(name, num_classes=10).eval()
    batch = images(1, 224 if "deit" in name else 64)
    if "distilled" in name:
        with pytest.raises(ValueError, match="layer must give the classifier's own logits"):
            OODDetector(model, method="msp")(batch)
    else:
        assert_close(OODDetector(model, method="msp")(batch), -max_softmax(model(batch)).detach())


def test_features_behind_a_layer_norm_are_warned_of_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 20), nn.LayerNorm(20), nn.Linear(20, 5))
    detector = OODDetector(model, method="scale")
    with pytest.warns(UserWarning, match='scale is made for features of at least 0.* use method="msp"'):
        detector(images())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector(images())
        OODDetector(model, method="msp")(images())
        OODDetector(model, method="scale").score(torch.zeros(1, 20))


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
        ({"percentile": "90"}, "percentile must be a number. Got '90'"),
        ({"method": None}, "method must be one of msp, "),
        ({"classifier": "resnet18"}, "classifier must be a Module. Got 'resnet18'"),
        ({"normalize": [0.5]}, "normalize must be (mean, std), a callable or None. Got [0.5]"),
    ],
    ids=str,
)
def test_wrong_arguments(network, arguments, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        OODDetector(**{"classifier": network, "layer": "3", **arguments})
    assert message in str(caught.value)


def test_a_classifier_without_linear_layers():
    with pytest.raises(ValueError, match="linear ones: none. Got 'fc'"):
        OODDetector(nn.Flatten(), "fc")
    with pytest.raises(
        ValueError, match="classifier must have a linear layer, or layer must name its last layer. Got Flatten"
    ):
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
    for features in (images(), torch.zeros(3, 20, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"features must be floating point \(N, n\). Got torch"):
            detector.score(features)
    for data in ("cifar10", 3, {"images": images()}, ["a", "b"], [images().numpy()]):
        with pytest.raises(TypeError, match="data"):
            OODDetector(network, "3", "react").fit(data)
    with torch.no_grad():
        network[1].weight[0] = math.nan
    with pytest.raises(ValueError, match="classifier must return finite logits"):
        detector(images())


def test_not_fitted(network):
    with pytest.raises(ValueError, match="react must be fitted to in-distribution images: call fit"):
        OODDetector(network, "3", "react")(images())
    for data in ([], torch.empty(0, 20), torch.tensor([[1.0, math.nan]]), torch.tensor([[1.0, math.inf]])):
        with pytest.raises(ValueError, match="fit needs finite features of at least one image. Got shape"):
            OODDetector(network, "3", "react").fit(data)


@pytest.mark.parametrize(
    ("id_scores", "ood_scores", "expected"),
    [
        ([0.1, 0.2], [0.3, 0.4], (1, 0, 1)),
        # All OOD below: precisions 2 / 4 and 1 / 3.
        ([0.3, 0.4], [0.1, 0.2], (0, 1, 5 / 12)),
        # All equal: chance, which is 0.5 for AUROC and the share of OOD for AUPR.
        ([1, 1, 1], [1], (0.5, 1, 1 / 4)),
        # 0.1 is below both, 0.2 tied with one, 0.6 above both; all three are flagged from 0.1 on, with both ID.
        ([0.2, 0.5], [0.1, 0.2, 0.6], ((0 + 0.5 + 2) / 6, 1, (3 / 5 + 2 / 4 + 1) / 3)),
        # 0.3 is above two of four, 0.4 above two and tied with one; from 0.3 on 0.4 and 0.8 are flagged.
        ([0.1, 0.2, 0.4, 0.8], [0.3, 0.4], ((2 + 2.5) / 8, 0.5, (2 / 4 + 1 / 3) / 2)),
        ([-np.inf, 0], [np.inf], (1, 0, 1)),
    ],
    ids=range(6),
)
def test_metrics_by_hand(id_scores, ood_scores, expected):
    kinds = (list, np.array, torch.tensor, lambda values: torch.tensor(values, dtype=torch.float64))
    for kind in kinds:
        assert [metric(kind(id_scores), kind(ood_scores)) for metric in METRICS] == pytest.approx(expected)


@pytest.mark.parametrize(("number", "left"), [(19, 0), (20, 1), (39, 1), (40, 2), (60, 3), (100, 5), (1000, 50)])
def test_fpr95_leaves_out_at_most_a_twentieth(number, left):
    """Of 20 OOD images one may be missed, of 19 none: ID scores just above and below the threshold."""
    ood_scores = np.arange(number)
    assert fpr95([left - 0.5, left + 0.5], ood_scores) == 0.5
    assert fpr95([left - 0.5, left], ood_scores) == 0.5


@pytest.mark.parametrize("levels", [3, 10, 10**6])
def test_metrics_are_those_of_scikit_learn(levels):
    """With many ties and with none."""
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(levels)
    id_scores, ood_scores = rng.integers(levels, size=83), rng.integers(levels, size=57) + levels // 3
    expected = np.repeat([0, 1], [83, 57]), np.concatenate([id_scores, ood_scores])
    assert auroc(id_scores, ood_scores) == pytest.approx(metrics.roc_auc_score(*expected))
    assert aupr(id_scores, ood_scores) == pytest.approx(metrics.average_precision_score(*expected))
    # OpenOOD's: straight lines between the points.
    precision, recall, _ = metrics.precision_recall_curve(*expected)
    gain = metrics.auc(recall, precision) - aupr(id_scores, ood_scores)
    assert (gain > 0.01) if levels == 3 else (-0.01 < gain < 0 or levels == 10)
    false, true, _ = metrics.roc_curve(*expected, drop_intermediate=False)
    assert fpr95(id_scores, ood_scores) == pytest.approx(false[true >= 0.95][0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("id_scores", "ood_scores", "message"),
    [
        ([], [1.0], r"id_scores must be \(N,\), N at least 1. Got shape \(0,\)"),
        ([1.0], [], r"ood_scores must be \(N,\), N at least 1. Got shape \(0,\)"),
        ([[1.0]], [1.0], r"Got shape \(1, 1\)"),
        (1.0, [1.0], r"Got shape \(\)"),
        ([1.0, math.nan], [1.0], "id_scores must not hold NaN. Got 1 NaN of 2"),
        ([1.0], ["high"], r"ood_scores must be numbers. Got \['high'\]"),
    ],
    ids=range(6),
)
def test_metrics_undefined(metric, id_scores, ood_scores, message):
    with pytest.raises((TypeError, ValueError), match=message):
        metric(id_scores, ood_scores)
