"""The judge knows a right result, a clear error, and every kind of fault."""

from __future__ import annotations

import pytest

pytest.importorskip("hypothesis")

from . import judge as module
from .checks import BatchCheck, ResultCheck, SampleCheck, finite_scalar
from .judge import CLEAR, RIGHT, THIRD, judge
from .values import Call

BATCH = "pixels((2, 3, 16, 16))"
SAMPLES, LOGITS = SampleCheck(), BatchCheck("logits")
SCALAR = ResultCheck(finite_scalar)


def call_of(target: str, argument: str, check: object, good: bool | None = True) -> Call:
    return Call(target, None, (argument,), (), good, (), check)


VERDICTS = [
    (call_of("DiffAug(plain, timesteps=400)", BATCH, SAMPLES), RIGHT, ""),
    (call_of("DiffAug(plain, timesteps=400)", f"({BATCH}, 'cat')", SAMPLES), RIGHT, ""),
    (call_of("DiffAug(plain)", "pixels((2, 4, 16, 16))", SAMPLES), CLEAR, ""),
    (call_of("DiffAug", "'no-such-network'", SCALAR, good=None), THIRD, "DiffAug instead of a tensor"),
    (call_of("nn.Identity()", BATCH, SAMPLES), THIRD, "unchanged"),
    (call_of("nn.Identity()", "3", SAMPLES), THIRD, "taken in silence"),
    (call_of("(lambda x: x * 2)", BATCH, SAMPLES), THIRD, "values in"),
    (call_of("(lambda x: x[0])", BATCH, SAMPLES), THIRD, "instead of"),
    (call_of("(lambda x: (x[0] / 2, 'dog'))", f"({BATCH}, 'cat')", SAMPLES), THIRD, "was replaced"),
    (call_of("(lambda x: x.zero_().sum())", BATCH, SCALAR), THIRD, "changed in place"),
    (call_of("(lambda x: x.log().sum() * nan)", BATCH, SCALAR), THIRD, "not finite"),
    (call_of("nn.Linear(3, 3)", BATCH, SAMPLES), THIRD, "foreign RuntimeError"),
    (call_of("DiffAug(plain, p=2)", BATCH, SAMPLES), THIRD, "refused though right: ValueError: p must be in [0, 1]"),
    (call_of("head", BATCH, LOGITS), RIGHT, ""),
    (call_of("(lambda x: head(x)[:1])", BATCH, LOGITS), THIRD, "instead of"),
    (call_of("head", BATCH, BatchCheck("log")), THIRD, "probabilities that sum to"),
]


@pytest.mark.parametrize(("call", "kind", "reason"), VERDICTS, ids=[str(call) for call, *_ in VERDICTS])
def test_verdict_is_as_known(call, kind, reason):
    verdict = judge(call)
    assert verdict.kind == kind
    assert reason in verdict.reason


def test_endless_call_is_stopped(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 1)
    verdict = judge(call_of("(lambda x: all(x == 0 for x in iter(int, 1)))", BATCH, SAMPLES))
    assert verdict == (THIRD, "more than 1 seconds")
