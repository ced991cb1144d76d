"""Every kind of call by its name."""

from __future__ import annotations

from hypothesis import strategies as st

from . import calls_measures, calls_others, calls_robustness, calls_score, calls_transforms
from .values import Call

CALLS: dict[str, st.SearchStrategy[Call]] = {
    **calls_transforms.CALLS,
    **calls_score.CALLS,
    **calls_robustness.CALLS,
    **calls_measures.CALLS,
    **calls_others.CALLS,
}
