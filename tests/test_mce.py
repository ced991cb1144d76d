"""Mean corruption error, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from diffaug_transforms.robustness import CORRUPTIONS, mean_corruption_error
from diffaug_transforms.robustness.corruption_constants import BASELINE_ERRORS

HALF = dict.fromkeys(CORRUPTIONS, 0.5)


def test_ratios_are_averaged_not_errors():
    """14 ratios of .5 / .8 = .625 and one of .5 / .2 = 2.5: (14 * .625 + 2.5) / 15 = .75."""
    baseline = {**dict.fromkeys(CORRUPTIONS, 0.8), "fog": 0.2}
    assert mean_corruption_error(HALF, baseline) == pytest.approx(75)


def test_severities_are_summed_before_they_are_divided():
    """(.1 + .2 + .3 + .4 + .5) / (.2 + .4 + .4 + .5 + .5) = .75, where the mean of the five ratios is .71."""
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
    ],
    ids=range(9),
)
def test_bad_input(errors, baseline, message):
    with pytest.raises(ValueError) as caught:
        mean_corruption_error(errors, baseline)
    assert message in str(caught.value)
