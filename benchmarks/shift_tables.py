"""The tables of test-time adaptation, as Markdown, from the records of covariate_shift.py and its companions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from statistics import mean

from pivots import FAMILIES, mean_over_seeds, pick, rows, select
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


def families_table(records: Sequence[Record], timesteps: str = "network") -> str:
    """Accuracy by kind of corruption, per classifier and mode."""
    body = []
    for label, (model, recipe) in _labels(records).items():
        for mode, title in COLUMNS.items():
            own = _of_mode(select(records, model=model, recipe=recipe, metric="accuracy"), mode, timesteps)
            families = [[r for r in own if r["corruption"] in members] for members in FAMILIES.values()]
            body.append([label, title, *map(mean_over_seeds, families)])
    return rows(["classifier", "mode", *FAMILIES], body)


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


def anytime_table(records: Sequence[Record]) -> str:
    """Network calls, share of the full ensemble's answers and accuracy of each stopping rule, over all classifiers."""
    body = []
    for timesteps in dict.fromkeys(r["timesteps"] for r in records):
        here = select(records, timesteps=timesteps)
        full = [
            mean_over_parts(select(here, method="weights, mean", metric="accuracy"), clean) for clean in (True, False)
        ]
        body.append([timesteps, "all views", "9.0", "9.0", "100.0", "100.0", *full])
        for method in dict.fromkeys(r["method"] for r in here if r["method"].startswith("anytime")):
            line = [timesteps, method.removeprefix("anytime, ")]
            for metric in ("network_calls", "same_answers", "accuracy"):
                own = select(here, method=method, metric=metric)
                line += [mean_over_parts(own, clean) for clean in (True, False)]
            body.append(line)
    metrics = ("calls", "same answers (%)", "accuracy (%)")
    return rows(["S", "stops", *(f"{m}, {part}" for m in metrics for part in ("clean", "corrupted"))], body)


def mean_over_parts(records: Sequence[Record], clean: bool) -> str:
    return f"{mean(r['value'] for r in records if (r['corruption'] == 'clean') is clean):.1f}"


def weights_table(records: Sequence[Record]) -> str:
    """Accuracy of each weighting of the views, clean and corrupted, per classifier and choice of timesteps."""
    methods = list(dict.fromkeys(r["method"] for r in records if r["method"].startswith("weights")))
    body = []
    for timesteps in dict.fromkeys(r["timesteps"] for r in records):
        for recipe in dict.fromkeys(r["recipe"] for r in records):
            here = select(records, timesteps=timesteps, recipe=recipe)
            cells = [mean_over_parts(select(here, method=m), clean) for m in methods for clean in (True, False)]
            body.append([timesteps, recipe, *(" / ".join(pair) for pair in zip(cells[::2], cells[1::2]))])
    return rows(["S", "classifier", *(method.removeprefix("weights, ") for method in methods)], body)


def views_table(records: Sequence[Record]) -> str:
    """Accuracy of single views by their timestep, clean and corrupted."""
    views = select(records, mode="view", metric="accuracy")
    steps = sorted({r["timestep"] for r in views})
    body = [
        [part, *(mean_over_parts(select(views, timestep=t), part == "clean") for t in steps)]
        for part in ("clean", "corrupted")
    ]
    return rows(["view at t =", *map(str, steps)], body)


def speed_table(records: Sequence[Record]) -> str:
    body = []
    for method in dict.fromkeys(r["method"] for r in records):
        value = {r["metric"]: r["value"] for r in select(records, method=method)}
        (error,) = [r["standard_error"] for r in select(records, method=method, metric="ratio_to_de")]
        calls = f"{value['network_calls']:.1f} + {value['backward_calls']:.0f}"
        ratio = f"{value['ratio_to_de']:.3g} ± {error:.2g}"
        body.append([method, f"{1000 * value['seconds_per_image']:.3g}", ratio, calls])
    return rows(["mode", "ms an image", "time, ratio to DE", "network calls, forward + backward"], body)


def guide_table(records: Sequence[Record]) -> str:
    """RMS distance, on [0, 1] pixels, of DDA's result from a clean image: downscales down, scales across."""
    scales = sorted({r["guidance_scale"] for r in records})
    body = []
    for downscale in sorted({r["downscale"] for r in records}):
        own = [pick(records, downscale=downscale, guidance_scale=scale) for scale in scales]
        body.append([str(downscale), *(f"{r['value']:.3f} ± {r['standard_error']:.3f}" for r in own)])
    return rows(["downscale, scale", *(f"{scale:g}" for scale in scales)], body)
