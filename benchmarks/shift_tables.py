"""The paper's covariate-shift table, as Markdown, from covariate_shift.py's records."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from statistics import mean

from pivots import mean_over_seeds, rows, select
from records import Record

from diffaug_transforms.robustness import CORRUPTIONS, mean_corruption_error

COLUMNS = {"default": "Default", "dda": "DDA", "dda-se": "DDA-SE", "de": "DE"}


def shift_table(records: Sequence[Record], baseline: str = "alexnet") -> str:
    """One row per classifier and choice of timesteps: every mode shifted, then clean; mean ± standard error of seeds.

    With all five severities of all 15 corruptions, mCE against ``baseline`` too: "alexnet", or a recipe's Default.
    """
    accuracy = select(records, metric="accuracy")
    clean = select(accuracy, corruption="clean")
    shifted = [r for r in accuracy if r["corruption"] != "clean"]
    if not shifted:
        shifted, clean = clean, []
    modes = [mode for mode in COLUMNS if select(accuracy, mode=mode)]
    with_mce = _is_complete(shifted)
    header = ["classifier", "seeds", "timesteps", *(COLUMNS[mode] for mode in modes)]
    header += [f"clean, {COLUMNS[mode]}" for mode in modes if clean]
    header += [f"mCE, {COLUMNS[mode]}" for mode in modes if with_mce]
    body = []
    for label, name in _labels(accuracy).items():
        own, own_clean = (select(part, model=name[0], recipe=name[1]) for part in (shifted, clean))
        for timesteps in dict.fromkeys(r["timesteps"] for r in own if r["mode"] in ("de", "dda")) or [""]:
            cells = [_of_mode(part, mode, timesteps) for part in (own, own_clean) if part for mode in modes]
            line = [label, str(len({r["seed"] for r in own})), timesteps, *map(mean_over_seeds, cells)]
            line += [_mce(_of_mode(own, mode, timesteps), shifted, baseline) for mode in modes if with_mce]
            body.append(line)
    return _note(shifted) + rows(header, body)


def _labels(records: Sequence[Record]) -> dict[str, tuple[str, str]]:
    """(model, recipe) of each classifier, by what tells them apart in this table."""
    names = list(dict.fromkeys((r["model"], r["recipe"]) for r in records))
    several_models = len({model for model, _ in names}) > 1
    return {", ".join(name) if several_models else name[len(names) > 1]: name for name in names}


def _note(records: Sequence[Record]) -> str:
    numbers = " or ".join(map(str, sorted({r["n"] for r in records})))
    parts = len({(r["corruption"], r["severity"]) for r in records})
    return f"{numbers} images of each of {parts} parts, the same in every column.\n\n"


def _is_complete(records: Sequence[Record]) -> bool:
    return {(r["corruption"], r["severity"]) for r in records} == set(product(CORRUPTIONS, range(1, 6)))


def _of_mode(records: Sequence[Record], mode: str, timesteps: str) -> list[Record]:
    return select(records, mode=mode, timesteps="" if mode == "default" else timesteps)


def _mce(records: Sequence[Record], everything: Sequence[Record], baseline: str) -> str:
    reference = baseline if baseline == "alexnet" else _errors(select(everything, recipe=baseline, mode="default"))
    return f"{mean_corruption_error(_errors(records), reference):.1f}"


def _errors(records: Sequence[Record]) -> dict[str, float]:
    """Mean error in [0, 1] of each corruption, over severities and seeds."""
    return {c: mean(1 - r["value"] / 100 for r in select(records, corruption=c)) for c in CORRUPTIONS}
