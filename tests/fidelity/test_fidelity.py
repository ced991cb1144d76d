"""What the package computes equals what the original public code computed."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from . import MODULES


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_sources_own_numbers(module: ModuleType) -> None:
    if any(importlib.util.find_spec(name) is None for name in getattr(module, "NEEDS", ())):
        pytest.skip("the extra benchmarks")
    cases = list(module.comparisons())
    assert cases
    assert all(ours.shape == source.shape for _, ours, source in cases)
    wrong = [case for case, ours, source in cases if (ours.double() - source.double()).abs().max() > module.TOLERANCE]
    assert not wrong
