"""What the package computes equals what the original public code computed."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from . import MODULES
from .__main__ import PAGE, table


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_sources_own_numbers(module: ModuleType) -> None:
    if any(importlib.util.find_spec(name) is None for name in getattr(module, "NEEDS", ())):
        pytest.skip("the extra benchmarks")
    cases = list(module.comparisons())
    assert cases
    assert all(ours.shape == source.shape for _, ours, source in cases)
    wrong = [case for case, ours, source in cases if (ours.double() - source.double()).abs().max() > module.TOLERANCE]
    assert not wrong


@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="the extra benchmarks")
def test_the_page_has_a_row_for_each_formula() -> None:
    """Its differences are not compared: the last digits of float32 depend on the machine."""
    rows = [line.split(" | ")[:3] for line in table().splitlines()]
    assert [line.split(" | ")[:3] for line in PAGE.read_text().splitlines() if line.startswith("| ")] == [
        row for row in rows if len(row) == 3
    ]
