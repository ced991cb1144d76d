"""Every kind of call by its name, and the part of the package that it belongs to."""

from __future__ import annotations

from hypothesis import strategies as st

from . import calls_measures, calls_others, calls_robustness, calls_score, calls_transforms
from .values import Call

TABLES = {
    "transforms and ensembles": calls_transforms.CALLS,
    "networks, schedules, sampling": calls_score.CALLS,
    "DDA, smoothing, OOD detection": calls_robustness.CALLS,
    "corruptions, test sets, metrics, gradients": calls_measures.CALLS,
    "guidance, classifiers, figures": calls_others.CALLS,
}
CALLS: dict[str, st.SearchStrategy[Call]] = {name: call for table in TABLES.values() for name, call in table.items()}
PARTS: dict[str, str] = {name: part for part, table in TABLES.items() for name in table}
