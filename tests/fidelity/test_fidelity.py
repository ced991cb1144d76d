"""What the package computes equals what the original public code computed."""

from __future__ import annotations

from types import ModuleType

import pytest

from . import MODULES


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_sources_own_numbers(module: ModuleType) -> None:
    cases = list(module.comparisons())
    assert cases
    wrong = [case for case, ours, source in cases if (ours.double() - source.double()).abs().max() > module.TOLERANCE]
    assert not wrong
