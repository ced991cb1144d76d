"""Metrics of generated images: cases by hand, and the extractors they are of."""

from __future__ import annotations

import math
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn

from diffaug_transforms.classifiers import build_model, load_classifier

from .benchmark_runs import CLASSES, write_classifier

for module in ("datasets", "prdc", "torch_fidelity", "torchmetrics"):
    pytest.importorskip(module)

import feature_extractors  # noqa: E402
from feature_extractors import features_of, open_extractor  # noqa: E402
from generation_metrics import (  # noqa: E402
    Features,
    all_metrics,
    frechet_distance,
    inception_score,
    manifold_metrics,
)

CPU = torch.device("cpu")


def whitened(number: int, width: int) -> Tensor:
    """Features of mean 0 and covariance 1, exactly, float64."""
    drawn = torch.randn(number, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = drawn - drawn.mean(0)
    return drawn @ torch.linalg.cholesky(torch.linalg.inv(drawn.T.cov()))


def test_frechet_distance_of_known_gaussians():
    """N(0, 1) and N(m, D^2) on the axes: ||m||^2 + sum (d - 1)^2."""
    features = whitened(50, 3)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    m, d = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([1.0, 3.0, 0.5])
    assert frechet_distance(features, features * d + m) == pytest.approx(5 + 4 + 0.25, abs=1e-6)


def test_frechet_distance_of_covariances_that_do_not_commute():
    """tr (C C')^1/2 of 2x2 matrices is sqrt(tr C C' + 2 sqrt(det C C'))."""
    features = whitened(40, 2)
    first, second = features @ torch.tensor([[2.0, 0.0], [1.0, 1.0]]).double(), features * torch.tensor([1.0, 3.0])
    c, other = first.T.cov(), second.T.cov()
    product = c @ other
    root = math.sqrt(product.trace() + 2 * math.sqrt(product.det()))
    assert frechet_distance(first, second) == pytest.approx(float(c.trace() + other.trace()) - 2 * root, abs=1e-6)


def test_frechet_distance_keeps_digits():
    """In float32 the means' squares, 1e10, would swallow covariances of 1; and fewer images than features work."""
    features = whitened(50, 3)
    assert frechet_distance(features + 1e5, features + 1e5 + 1) == pytest.approx(3, abs=1e-3)
    assert frechet_distance(torch.eye(3, 8), torch.eye(3, 8) + 1) == pytest.approx(8, abs=1e-4)


def test_inception_scores_by_hand():
    assert inception_score(torch.full((6, 4), 0.25)) == pytest.approx(1)
    assert inception_score(torch.eye(4).repeat(3, 1)) == pytest.approx(4)
    # p = (.9, .1) and (.1, .9): KL to (.5, .5) is log 2 - H(.9).
    entropy = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    sure = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    assert inception_score(sure) == pytest.approx(2 * math.exp(-entropy))
    state = torch.get_rng_state()
    inception_score(sure)
    assert torch.equal(torch.get_rng_state(), state)


def test_manifold_metrics_by_hand(capfd):
    """On a line, k = 1. Real 0 1 2 10, so radii 1 1 1 8; generated .5 3.5 20, radii 3 3 16.5."""
    real, generated = (torch.tensor(values)[:, None] for values in ([0.0, 1.0, 2.0, 10.0], [0.5, 3.5, 20.0]))
    found = manifold_metrics(real, generated, nearest_k=1)
    # .5 is in the balls of 0 and 1, 3.5 in that of 10, 20 in none.
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["density"] == pytest.approx((2 + 1 + 0) / 3)
    # 0, 1 and 2 are in the ball of .5; 10 in that of 20.
    assert found["recall"] == 1
    # The nearest of 0 and of 1 is .5, of 10 it is 3.5, at 6.5 < 8; of 2 it is at 1.5 > 1.
    assert found["coverage"] == pytest.approx(3 / 4)
    assert capfd.readouterr().out == ""


def test_equal_and_disjoint_sets():
    features = whitened(30, 4)
    same = manifold_metrics(features, features, nearest_k=3)
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)
    apart = manifold_metrics(features, features + 1000, nearest_k=3)
    assert set(apart.values()) == {0}
    with pytest.raises(ValueError, match=r"nearest_k must be in 1...28 for sets of 30 images. Got 29"):
        manifold_metrics(features, features, nearest_k=29)


def test_all_metrics_takes_manifolds_of_equal_size():
    real = Features(whitened(40, 3), whitened(40, 2), torch.eye(5).repeat(8, 1))
    generated = Features(real.pooled[:20] + 1, real.spatial[:20] * 2, real.probabilities[:20])
    found = all_metrics(real, generated, nearest_k=2)
    expected = manifold_metrics(real.pooled[:20], generated.pooled, nearest_k=2)
    assert {name: found[name] for name in expected} == expected
    assert found["sfid"] == pytest.approx(frechet_distance(real.spatial, generated.spatial))
    assert found["inception_score"] == pytest.approx(5)


def test_the_features_of_a_classifier(tmp_path, samples):
    folder = write_classifier(tmp_path / "baseline-0", "baseline", 0)
    extractor = open_extractor(str(folder), CPU)
    found = features_of(extractor, samples, batch_size=3)
    assert (extractor.name, extractor.layer, extractor.classes) == ("cifar_resnet-8 (baseline-0)", "3", CLASSES)
    classifier = load_classifier(folder)
    with torch.no_grad():
        images = (samples.float() / 255 - 0.5) / 0.5
        maps = classifier.model[:4](images)
        assert torch.allclose(found.spatial, maps[:, :7].flatten(1), atol=1e-5)
        assert torch.allclose(found.pooled, classifier.model[:8](images), atol=1e-5)
        assert torch.allclose(found.probabilities, classifier.model(images).softmax(1), atol=1e-5)
    assert found.spatial.shape == (8, 7 * 8 * 8)


def test_stages():
    assert feature_extractors.last_stage_but_one(build_model("resnet18", 10), CPU) == "layer3"
    with pytest.raises(ValueError, match="must have stages of maps, as ResNets have. Got Sequential"):
        feature_extractors.last_stage_but_one(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), CPU)


def test_inception_takes_openais_layers(monkeypatch, samples):
    """Random weights show which layers are taken; torch-fidelity holds its own to be the original's."""
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    made = []
    monkeypatch.setattr(fidelity, "load_state_dict_from_url", lambda *args, **kwargs: {})
    monkeypatch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda self, _: made.append(self))
    extractor = open_extractor("inception", CPU)
    with torch.inference_mode():
        found = extractor.extract(samples[:1])
    assert (extractor.name, extractor.layer, extractor.classes) == ("Inception", "Mixed_6d.branch1x1", ())
    assert found.pooled.shape == (1, 2048)
    assert found.spatial.shape == (1, 7 * 17 * 17)
    unbiased = found.pooled @ made[0].fc.weight.T
    assert torch.allclose(found.probabilities, unbiased.softmax(1), atol=1e-6)


def test_what_extractors_refuse(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="extractor must be .* or a classifier's folder. Got 'vgg'"):
        open_extractor("vgg", CPU)
    with pytest.raises(OSError, match="Inception's weights cannot be had .* pass inception@FILE"):
        open_extractor(f"inception@{tmp_path / 'none.pth'}", CPU)
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(fidelity, "load_state_dict_from_url", offline)
    with pytest.raises(OSError, match="no route to host.* pass inception@FILE"):
        open_extractor("inception", CPU)
