"""Records of ``evaluate`` -> standard errors and means over corruptions, a table, a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...arguments import counted
from .modes import MODES
from .records import Record, whole_file

#: The corruption of records that are means over all corrupted parts.
ALL = "all"


def add_summaries(records: Sequence[Record]) -> list[Record]:
    """The records with standard errors, with each method's gain over the classifier alone, and with means over parts.

    Images are the same in every part and under every method, so a mean over parts is taken for each image first, and a
    gain is the mean of the images' own differences. The standard errors are those of the images' values.

    Args:
        records: of one classifier, with ``right``, as ``judge_parts`` makes them.
    """
    found: list[Record] = []
    answers = [record for record in records if "right" in record]
    default = {part_of(r): r for r in answers if r["mode"] == "default"}
    for record in records:
        if record["metric"] != "accuracy":
            found.append(record)
            continue
        p, n = record["value"] / 100, record["n"]
        error = round(100 * (p * (1 - p) / (n - 1)) ** 0.5, 3) if n > 1 else None
        found.append({**record, "standard_error": error})
        if "right" in record and record["mode"] != "default":
            gain = as_percent(record["right"]) - as_percent(default[part_of(record)]["right"])
            found.append({**without(record), "metric": "gain", **mean_and_error(gain)})
    corrupted = [record for record in answers if record["corruption"] != "clean"]
    if len({part_of(record) for record in corrupted}) < 2:
        return found
    mean_of = {}
    for method in dict.fromkeys(map(method_of, corrupted)):
        own = [record for record in corrupted if method_of(record) == method]
        mean_of[method] = torch.stack([as_percent(record["right"]) for record in own]).mean(dim=0)
        common = {**without(own[0]), "corruption": ALL, "severity": 0}
        found.append({**common, "metric": "accuracy", **mean_and_error(mean_of[method])})
        if method[0] != "default":
            found.append({**common, "metric": "gain", **mean_and_error(mean_of[method] - mean_of["default", ""])})
    return found


def method_of(record: Record) -> tuple[str, str]:
    return record["mode"], record["timesteps"]


def part_of(record: Record) -> tuple[str, int]:
    return record["corruption"], record["severity"]


def without(record: Record) -> Record:
    """The fields that say what a record is of."""
    return {key: value for key, value in record.items() if key not in ("right", "metric", "value")}


def as_percent(right: Sequence[int]) -> Tensor:
    return 100 * torch.tensor(right, dtype=torch.float64)


def mean_and_error(values: Tensor) -> Record:
    error = round(values.std().item() / len(values) ** 0.5, 3) if len(values) > 1 else None
    return {"value": round(values.mean().item(), 3), "standard_error": error, "n": len(values)}


def result_table(records: Sequence[Record]) -> str:
    """Markdown: for each method its network calls an image, its accuracy on each kind of part, and its gain."""
    parts = list(dict.fromkeys(part_of(r) for r in records if r["metric"] == "accuracy"))
    summary = [part for part in parts if part[0] in ("clean", ALL)] if (ALL, 0) in parts else parts
    modes = [mode for mode in MODES if any(record["mode"] == mode for record in records)]
    first = records[0]
    n = max(record["n"] for record in records)
    trained = "" if first["recipe"] == "baseline" else f", {first['recipe']}"
    text = f"{first['model']}{trained} on {first['dataset']}, {counted(n, 'image')} in each part. "
    text += "Accuracy and gain in percent.\n\n"
    header = ["", "calls an image", *(f for part in summary for f in (title(part), "gain"))]
    body = [[mode, calls(records, mode), *cells(records, mode, summary)] for mode in modes]
    text += markdown(header, body)
    if len(parts) > len(summary):
        rest = [part for part in parts if part not in summary]
        body = [[title(part), *(cell(records, "accuracy", mode, part) for mode in modes)] for part in rest]
        text += "\n" + markdown(["", *modes], body)
    return text


def title(part: tuple[str, int]) -> str:
    corruption, severity = part
    return {"clean": "clean", ALL: "corrupted, mean"}.get(corruption, f"{corruption.replace('_', ' ')} {severity}")


def cells(records: Sequence[Record], mode: str, parts: Iterable[tuple[str, int]]) -> list[str]:
    return [cell(records, metric, mode, part) for part in parts for metric in ("accuracy", "gain")]


def cell(records: Sequence[Record], metric: str, mode: str, part: tuple[str, int]) -> str:
    """The value with its standard error; "" if there is none."""
    for record in records:
        if record["metric"] == metric and record["mode"] == mode and part_of(record) == part:
            error = record["standard_error"]
            sign = "+" if metric == "gain" else ""
            return f"{record['value']:{sign}.1f}" + ("" if error is None else f" ± {error:.1f}")
    return ""


def calls(records: Sequence[Record], mode: str) -> str:
    """Network calls an image, over all parts. DDA's have a backward pass each."""
    values = [r["value"] for r in records if r["metric"] == "network_calls" and r["mode"] == mode]
    text = f"{sum(values) / len(values):.1f}".removesuffix(".0")
    return f"{text}, with gradients" if MODES[mode].views == "dda" else text


def markdown(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, ["---"] * len(header), *body))


def plot_results(records: Sequence[Record], path: Path) -> None:
    """Accuracy under each corruption by method, and of the ensemble's single views over t, as a PNG.

    ImportError if Matplotlib, of the extra ``benchmarks``, is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('pictures need Matplotlib: pip install "diffaug-transforms[benchmarks]"') from None
    accuracy = [record for record in records if record["metric"] == "accuracy"]
    views = [record for record in accuracy if record["mode"] == "view"]
    answers = [record for record in accuracy if record["mode"] != "view"]
    parts = list(dict.fromkeys(map(part_of, answers)))
    figure = Figure(figsize=(10, 3 + 0.3 * len(parts)) if views else (6, 2 + 0.3 * len(parts)), layout="constrained")
    panels = figure.subplots(1, 2 if views else 1, squeeze=False)[0]
    draw_bars(panels[0], answers, parts)
    if views:
        draw_views(panels[1], views)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def draw_bars(panel: Any, answers: Sequence[Record], parts: Sequence[tuple[str, int]]) -> None:
    """One group of bars for each part, with standard errors."""
    modes = [mode for mode in MODES if any(record["mode"] == mode for record in answers)]
    height = 0.8 / len(modes)
    for i, mode in enumerate(modes):
        own = {part_of(record): record for record in answers if record["mode"] == mode}
        values = [own[part]["value"] for part in parts]
        errors = [own[part]["standard_error"] or 0 for part in parts]
        places = [place + i * height for place in range(len(parts))]
        panel.barh(places, values, height, xerr=errors, label=mode, error_kw={"linewidth": 0.8})
    panel.set_yticks([place + 0.4 - height / 2 for place in range(len(parts))], [title(part) for part in parts])
    panel.invert_yaxis()
    panel.set(xlabel="accuracy (%)", xlim=(0, 100))
    panel.legend(fontsize=8)


def draw_views(panel: Any, views: Sequence[Record]) -> None:
    """The accuracy of the classifier on single views, over t: clean, and the mean over corrupted parts."""
    for name, is_clean in (("clean", True), ("corrupted", False)):
        own = [record for record in views if (record["corruption"] == "clean") == is_clean]
        steps = sorted({record["timestep"] for record in own})
        at = [[record["value"] for record in own if record["timestep"] == t] for t in steps]
        if steps:
            panel.plot(steps, [sum(values) / len(values) for values in at], marker=".", label=name)
    panel.set(xlabel="t of a single view", ylabel="accuracy (%)")
    panel.legend(fontsize=8)
