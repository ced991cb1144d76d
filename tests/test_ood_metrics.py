"""AUROC, FPR95 and AUPR: by hand, beside the curves' steps, and where they are undefined."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from diffaug_transforms.robustness.ood_metrics import aupr, auroc, fpr95

METRICS = (auroc, fpr95, aupr)


@pytest.mark.parametrize(
    ("id_scores", "ood_scores", "expected"),
    [
        ([0.1, 0.2], [0.3, 0.4], (1, 0, 1)),
        # All OOD below: precisions 2 / 4 and 1 / 3.
        ([0.3, 0.4], [0.1, 0.2], (0, 1, 5 / 12)),
        # All equal: chance, which is .5 for AUROC and the share of OOD for AUPR.
        ([1, 1, 1], [1], (0.5, 1, 1 / 4)),
        # .1 is below both, .2 tied with one, .6 above both; all three are flagged from .1 on, with both ID.
        ([0.2, 0.5], [0.1, 0.2, 0.6], ((0 + 0.5 + 2) / 6, 1, (3 / 5 + 2 / 4 + 1) / 3)),
        # .3 is above two of four, .4 above two and tied with one; from .3 on .4 and .8 are flagged.
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


def curve(id_scores, ood_scores):
    """The rates and precision at every threshold, from the highest down."""
    thresholds = sorted({*id_scores, *ood_scores}, reverse=True)
    for threshold in thresholds:
        false, true = np.sum(id_scores >= threshold), np.sum(ood_scores >= threshold)
        yield false / len(id_scores), true / len(ood_scores), true / (true + false)


@pytest.mark.parametrize("levels", [3, 10, 10**6])
def test_metrics_against_the_curves(levels):
    """Areas step by step along the curves, with many ties and with none."""
    rng = np.random.default_rng(levels)
    id_scores, ood_scores = rng.integers(levels, size=83), rng.integers(levels, size=57) + levels // 3
    points = [(0.0, 0.0, 1.0), *curve(id_scores, ood_scores)]
    pairs = list(itertools.pairwise(points))
    assert auroc(id_scores, ood_scores) == pytest.approx(sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairs))
    assert aupr(id_scores, ood_scores) == pytest.approx(sum((b[1] - a[1]) * b[2] for a, b in pairs))
    assert fpr95(id_scores, ood_scores) == next(fpr for fpr, tpr, _ in points if tpr >= 0.95)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("id_scores", "ood_scores", "message"),
    [
        ([], [1.0], r"id_scores must be \(N,\), N at least 1. Got shape \(0,\)"),
        ([1.0], [], r"ood_scores must be \(N,\), N at least 1. Got shape \(0,\)"),
        ([[1.0]], [1.0], r"Got shape \(1, 1\)"),
        (1.0, [1.0], r"Got shape \(\)"),
        ([1.0, math.nan], [1.0], "id_scores must not be NaN. Got 1 NaN of 2"),
    ],
    ids=range(5),
)
def test_metrics_undefined(metric, id_scores, ood_scores, message):
    with pytest.raises(ValueError, match=message):
        metric(id_scores, ood_scores)
