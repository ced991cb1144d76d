"""Rules of OOD scores: by hand, beside plain Python, and at their edges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from diffaug_transforms.robustness import OOD_METHODS, OODDetector
from diffaug_transforms.robustness.ood_rules import ash_b, ash_p, ash_s, energy, max_softmax, react, scale

E = math.e
RULES = [ash_b, ash_p, ash_s, scale]
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


def reference(rule, row, percentile):
    """One row of features as a list, in plain Python."""
    kept = sorted(range(len(row)), key=lambda i: -row[i])[: len(row) - round(len(row) * percentile / 100)]
    s1, s2 = sum(row), sum(row[i] for i in kept)
    shaped = {
        ash_b: [s1 / len(kept)] * len(row),
        ash_p: row,
        ash_s: [value * math.exp(s1 / s2) for value in row],
        scale: [value * math.exp(s1 / s2) for value in row],
    }[rule]
    return [value if rule is scale or i in kept else 0 for i, value in enumerate(shaped)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("percentile", [0, 50, 65, 85, 90])
def test_rules_against_the_reference(rule, percentile):
    features = torch.rand(8, 25, generator=torch.Generator().manual_seed(1)).double()
    before = features.clone()
    expected = torch.tensor([reference(rule, row, percentile) for row in features.tolist()], dtype=torch.double)
    torch.testing.assert_close(rule(features, percentile), expected)
    assert torch.equal(features, before)
    assert rule(features[:0], percentile).shape == (0, 25)


def test_halves_of_k_round_to_even():
    """25 * 50 / 100 = 12.5 is 12 and 15 * 50 / 100 = 7.5 is 8, as NumPy rounds."""
    for n, k in ((25, 13), (15, 7)):
        assert (ash_p(torch.arange(1.0, n + 1)[None], 50) > 0).sum() == k


def test_equal_features_leave_k():
    assert ash_p(torch.ones(1, 10), 70).sum() == 3


@pytest.mark.parametrize("method", [method for method in OOD_METHODS if method not in ("msp", "react")])
def test_scores_are_those_of_pytorch_ood(method):
    detectors = pytest.importorskip("pytorch_ood.detector")
    head = nn.Linear(512, 10)
    features = torch.rand(16, 512) * torch.rand(16, 1)
    detector = OODDetector(nn.Sequential(nn.Identity(), head), "1", method)
    fraction = detector.percentile / 100
    options = {"percentile": fraction, **({} if method == "scale" else {"variant": method})}
    theirs = (detectors.SCALE if method == "scale" else detectors.ASH)(
        None, lambda maps: head(maps.flatten(1)), **options
    )
    assert_close(detector.score(features), theirs.predict_feature_maps(features[..., None, None]))


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
