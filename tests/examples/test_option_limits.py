"""Numbers that an option of a training script cannot have end the script in one line, before it reads data."""

from __future__ import annotations

import argparse
import sys

import option_limits
import pytest
import train_classifier
import train_guidance_classifier
import train_score_network

SCRIPTS = (train_classifier, train_guidance_classifier, train_score_network)
#: ``repeat_by_shares`` checks them: there must be one for each data set.
CHECKED_ELSEWHERE = {"shares"}


@pytest.fixture(params=SCRIPTS, ids=lambda script: script.__name__)
def options(request, monkeypatch):
    """The numeric options of a script, and its parser of a command line."""
    parsers = []
    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", lambda parser: parsers.append(parser))
        with pytest.raises((AttributeError, TypeError)):  # nothing was parsed
            request.param.parse_arguments()

    def parse(*arguments: object) -> argparse.Namespace:
        monkeypatch.setattr(sys, "argv", ["script", "--output", "runs/a", *map(str, arguments)])
        return request.param.parse_arguments()

    return {action.dest: action for action in parsers[0]._actions if action.type in (int, float)}, parse


def test_every_number_has_a_limit_and_the_error_names_the_option(options, capsys):
    actions, parse = options
    limited = (*option_limits.COUNTS, *option_limits.COUNTS_OR_NONE, *option_limits.WEIGHTS)
    limited += (*option_limits.PROBABILITIES, "seed")
    assert set(actions) - CHECKED_ELSEWHERE <= set(limited)
    for name, action in actions.items():
        if name in CHECKED_ELSEWHERE:
            continue
        option = action.option_strings[0]
        for wrong in [-1, 0] if name in option_limits.COUNTS else [-1]:
            with pytest.raises(SystemExit):
                parse(option, wrong)
            printed = capsys.readouterr().err
            assert f"error: {option.removeprefix('--')} must be " in printed
            assert f"Got {action.type(wrong)}\n" in printed


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--lr", "nan", "lr must be at least 0. Got nan"),
        ("--lr", "inf", "lr must be at least 0. Got inf"),
        ("--seed", 2**32, "seed must be in 0...4294967295. Got 4294967296"),
        ("--steps", 1.5, "invalid int value: '1.5'"),
    ],
)
def test_other_wrong_numbers(options, capsys, option, value, message):
    _, parse = options
    with pytest.raises(SystemExit):
        parse(option, value)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "values", "message"),
    [
        ("--p", [2], "p must be in [0, 1]. Got 2.0"),
        ("--label-smoothing", [1.5], "label-smoothing must be in [0, 1]. Got 1.5"),
        ("--timesteps", [0, -5], "timesteps must be at least 0. Got -5"),
    ],
)
def test_wrong_numbers_of_the_classifier_script(monkeypatch, capsys, option, values, message):
    monkeypatch.setattr(sys, "argv", ["script", "--output", "runs/a", option, *map(str, values)])
    with pytest.raises(SystemExit):
        train_classifier.parse_arguments()
    assert message in capsys.readouterr().err


def test_numbers_at_the_limits_pass(options):
    actions, parse = options
    line = [option_limits.COUNTS, 1], [option_limits.COUNTS_OR_NONE, 0], [option_limits.WEIGHTS, 0]
    wanted = {name: value for names, value in line for name in names if name in actions and name != "warmup"}
    args = parse(*(part for name, value in wanted.items() for part in (actions[name].option_strings[0], value)))
    for name, value in wanted.items():
        assert getattr(args, name) in (value, [value])
