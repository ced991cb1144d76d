"""Right predictions and the mean corruption error, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffaug_transforms.robustness import CORRUPTIONS, correct, mean_corruption_error
from diffaug_transforms.robustness.metrics import BASELINE_ERRORS

HALF = dict.fromkeys(CORRUPTIONS, 0.5)
#: Over all classes, 1 is the most probable for every image; out of 0, 2 and 4 it is 4, 4 and 0.
LOGITS = torch.tensor([[0.1, 9, 0.2, 8, 0.3], [0.1, 9, -0.2, 8, 0.3], [0.5, 9, 0.2, 8, 0.3]])


def test_predictions_come_from_the_candidates():
    assert correct(LOGITS, torch.tensor([4, 2, 0]), (0, 2, 4)).tolist() == [True, False, True]
    assert correct(LOGITS, torch.tensor([1, 2, 1])).tolist() == [True, False, True]
    assert correct(LOGITS, torch.full((3,), -1)).tolist() == [False] * 3


def test_any_of_several_targets_is_right():
    targets = torch.tensor([[1, -1, -1], [0, 1, -1], [0, 4, 2]])
    assert correct(LOGITS, targets).tolist() == [True, True, False]
    for empty in (targets[:0], targets[:0, 0]):
        none = correct(LOGITS[:0], empty, (0, 2))
        assert (none.dtype, none.shape) == (torch.bool, (0,))


@pytest.mark.parametrize(
    ("logits", "targets", "candidates", "message"),
    [
        (LOGITS[0], torch.tensor([0]), None, "logits must be (B, K). Got shape (5,)"),
        (LOGITS, torch.tensor([0, 1]), None, "targets must be (3,) or (3, M). Got shape (2,)"),
        (LOGITS, torch.tensor([0, 5, 1]), None, "targets must be below the 5 classes of the logits. Got 5"),
        (LOGITS, torch.tensor([0, 1, 1]), (0, 999), "candidates must be below the 5 classes of the logits. Got 999"),
        (LOGITS, torch.tensor([0, 1, 1]), (), "candidates must be classes, one at least. Got ()"),
        (LOGITS, torch.tensor([0, 1, 1]), (-1, 2), "candidates must be at least 0. Got -1"),
        (LOGITS, torch.tensor([0, 1, 1]), (0.5, 2), "candidates must be integers. Got torch.float32"),
        (LOGITS, torch.tensor([0, -2, 1]), None, "targets must be at least -1. Got -2"),
        (LOGITS, torch.zeros(3), None, "targets must be integers. Got torch.float32"),
        (LOGITS, [0, 1, 1], None, "targets must be a Tensor. Got [0, 1, 1]"),
        (LOGITS.tolist(), torch.tensor([0, 1, 1]), None, "logits must be a Tensor. Got "),
    ],
    ids=range(11),
)
def test_wrong_logits_and_targets(logits, targets, candidates, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        correct(logits, targets, candidates)
    assert message in str(caught.value)


def test_ratios_are_averaged_not_errors():
    """14 ratios of 0.5 / 0.8 = 0.625 and one of 0.5 / 0.2 = 2.5: (14 * 0.625 + 2.5) / 15 = 0.75."""
    baseline = {**dict.fromkeys(CORRUPTIONS, 0.8), "fog": 0.2}
    assert mean_corruption_error(HALF, baseline) == pytest.approx(75)


def test_severities_are_summed_before_they_are_divided():
    """(0.1 + 0.2 + 0.3 + 0.4 + 0.5) / (0.2 + 0.4 + 0.4 + 0.5 + 0.5) = 0.75. The mean of the five ratios is 0.71."""
    errors, baseline = [0.1, 0.2, 0.3, 0.4, 0.5], [0.2, 0.4, 0.4, 0.5, 0.5]
    expected = 100 * (14 * 0.5 / 0.4 + 0.75) / 15
    baseline_errors = {**dict.fromkeys(CORRUPTIONS, 0.4), "snow": baseline}
    assert mean_corruption_error({**HALF, "snow": errors}, baseline_errors) == pytest.approx(expected)
    assert mean_corruption_error({**HALF, "snow": np.array(errors)}, baseline_errors) == pytest.approx(expected)
    assert mean_corruption_error({**HALF, "snow": 0.3}, {**baseline_errors, "snow": 0.4}) == pytest.approx(expected)


def test_a_baseline_is_100_by_itself():
    assert tuple(BASELINE_ERRORS["alexnet"]) == CORRUPTIONS
    assert mean_corruption_error(BASELINE_ERRORS["alexnet"]) == pytest.approx(100)
    assert mean_corruption_error({c: error / 2 for c, error in BASELINE_ERRORS["alexnet"].items()}) == pytest.approx(50)
    assert mean_corruption_error(dict.fromkeys(CORRUPTIONS, 0)) == 0


def test_order_and_other_keys_do_not_matter():
    reordered = {"clean": 0.2, "speckle_noise": 0.9, **dict(reversed(HALF.items()))}
    assert mean_corruption_error(reordered) == mean_corruption_error(HALF)


@pytest.mark.parametrize(
    ("errors", "baseline", "message"),
    [
        ({"fog": 0.5}, "alexnet", "errors must hold all 15 corruptions. Got none for gaussian_noise, shot_noise"),
        (HALF, {"fog": 0.5}, "baseline must hold all 15 corruptions"),
        (HALF, "vgg", "baseline must be 'alexnet' or a mapping of errors. Got 'vgg'"),
        (HALF, {**HALF, "fog": 0}, "baseline's errors must be above 0. Got 0 for fog"),
        ({**HALF, "fog": 76.7}, "alexnet", "errors must be in [0, 1]. Got 76.7 for fog"),
        ({**HALF, "fog": -0.1}, "alexnet", "Got -0.1 for fog"),
        ({**HALF, "fog": float("nan")}, "alexnet", "Got nan for fog"),
        ({**HALF, "fog": [0.5, 0.5, 0.5, 0.5, 1.5]}, "alexnet", "Got [0.5, 0.5, 0.5, 0.5, 1.5] for fog"),
        ({**HALF, "fog": [0.5, 0.5]}, "alexnet", "errors must be a mean or 5 values. Got shape (2,) for fog"),
        ({**HALF, "fog": "half"}, "alexnet", "errors must be numbers. Got 'half' for fog"),
        (0.5, "alexnet", "errors must be a Mapping. Got 0.5"),
        (HALF, None, "baseline must be a Mapping. Got None"),
    ],
    ids=range(12),
)
def test_bad_errors(errors, baseline, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        mean_corruption_error(errors, baseline)
    assert message in str(caught.value)
