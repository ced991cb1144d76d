"""A few hundred random calls in every test run, the same ones each time. More: DIFFAUG_EXAMPLES=100 pytest ..."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from .all_calls import CALLS
from .damaged_files import DAMAGE, try_folder, write_folders
from .judge import CLEAR, THIRD, judge

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


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_files_load_as_before_or_give_clear_errors(how, tmp_path):
    for name, load in write_folders(tmp_path).items():
        found = try_folder(load, tmp_path / name, how, trials=12, seed=2)
        assert THIRD not in {kind for kind, _ in found}, found
        assert CLEAR in {kind for kind, _ in found}
