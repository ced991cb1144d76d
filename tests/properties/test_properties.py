"""A few hundred random calls in every test run, the same ones each time. More: DIFFAUG_EXAMPLES=100 pytest ..."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from .all_calls import CALLS
from .judge import THIRD, judge

EXAMPLES = int(os.environ.get("DIFFAUG_EXAMPLES", "15"))


@pytest.mark.parametrize("name", CALLS)
@settings(
    max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
@given(data=st.data())
def test_calls_are_right_or_clear_errors(name, data):
    call = data.draw(CALLS[name])
    verdict = judge(call)
    note(str(call))
    assert verdict.kind != THIRD, f"{verdict.reason}\n    {call}"
