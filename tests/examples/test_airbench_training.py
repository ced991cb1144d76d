"""How airbench94 is trained: rates, groups of parameters, Lookahead, and what excludes what."""

from __future__ import annotations

import sys

import pytest
import torch
from airbench_training import LOOKAHEAD_DECAY, Lookahead, build_airbench_optimizer, triangle
from torch import nn
from train_classifier import parse_arguments

from diffaug_transforms.classifiers import NormalizedClassifier, build_model

AIRBENCH = ["--model", "airbench94", "--optimizer", "airbench"]


@pytest.fixture
def arguments(monkeypatch):
    def parse(*options):
        monkeypatch.setattr(sys, "argv", ["train_classifier.py", "--output", "runs/x", *map(str, options)])
        return parse_arguments()

    return parse


def test_the_rate_is_proportional_to_the_batch(arguments):
    assert arguments(*AIRBENCH, "--batch-size", 1024).lr == 1.5
    assert arguments(*AIRBENCH, "--batch-size", 256).lr == 0.375
    assert arguments(*AIRBENCH, "--lr", 0.3).lr == 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optimizer", "airbench"], "optimizer airbench is for --model airbench94. Got cifar_resnet-32"),
        ([*AIRBENCH, "--init", "runs/a"], "optimizer airbench trains from scratch. Leave out --init"),
    ],
)
def test_options_that_exclude_each_other(arguments, capsys, options, message):
    with pytest.raises(SystemExit):
        arguments(*options)
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_triangle_goes_up_and_down():
    assert [round(triangle(share), 4) for share in (0, 0.115, 0.23, 0.615, 1)] == [0.2, 0.6, 1, 0.535, 0.07]


def test_each_parameter_is_in_one_group_and_the_whitening_stops(arguments):
    args = arguments(*AIRBENCH, "--batch-size", 1024, "--steps", 10)
    classifier = NormalizedClassifier(build_model("airbench94", 10), 0.5, 0.25)
    optimizer, schedule = build_airbench_optimizer(args, classifier)
    others, whitening, biases = optimizer.param_groups
    trained = [p for p in classifier.parameters() if p.requires_grad]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(trained)
    assert whitening["params"][0] is classifier.model.whiten.bias
    # A step shrinks all parameters alike, for the rate times the decay is one number.
    assert biases["initial_lr"] * biases["weight_decay"] == pytest.approx(args.lr * args.weight_decay)
    rates = []
    for _ in range(10):
        rates.append(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
    assert [whitened == other for other, whitened, _ in rates] == [True] * 3 + [False] * 7
    assert all(whitened == 0 for _, whitened, _ in rates[3:])
    assert all(fast == pytest.approx(64 * other) for other, _, fast in rates)
    assert others["params"][-1] is classifier.model.head.weight


def test_lookahead_by_hand():
    """Every fifth step slow moves towards the weights, and the weights return to it. At the end they are it."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    lookahead = Lookahead(model, steps=12)
    slow = 0.0
    for step in range(1, 13):
        model.weight.data += 1.0
        before = model.weight.item()
        lookahead.step(step)
        if step in (5, 10):
            decay = LOOKAHEAD_DECAY * (step / 12) ** 3
            slow = decay * slow + (1 - decay) * before
            assert model.weight.item() == pytest.approx(slow)
        elif step < 12:
            assert model.weight.item() == before
    assert model.weight.item() == pytest.approx(slow)


def test_lookahead_goes_on_from_its_state():
    model = nn.BatchNorm2d(2)
    lookahead = Lookahead(model, steps=100)
    model.running_mean.fill_(3.0)
    lookahead.step(5)
    again = Lookahead(nn.BatchNorm2d(2), steps=100)
    again.load_state_dict(lookahead.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again.slow, lookahead.slow))
    assert model.running_mean.tolist() == pytest.approx([3.0 * (1 - LOOKAHEAD_DECAY * 0.05**3)] * 2)
