"""Pivots of tidy records: choosing them, averaging them over seeds, writing Markdown rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from statistics import mean, stdev

from records import Record

FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}


def pick(records: Sequence[Record], **wanted: object) -> Record:
    """The one record with these values."""
    (found,) = select(records, **wanted)
    return found


def rows(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def mean_over_seeds(records: Sequence[Record], sign: str = "", digits: int = 1) -> str:
    """Mean over seeds of the mean over sets, with the standard error over seeds where there are several; "" of none."""
    if not records:
        return ""
    by_seed: dict[int, list[float]] = {}
    for r in records:
        by_seed.setdefault(r["seed"], []).append(r["value"])
    means = [mean(values) for values in by_seed.values()]
    error = f" ± {stdev(means) / len(means) ** 0.5:.{digits}f}" if len(means) > 1 else ""
    return f"{mean(means):{sign}.{digits}f}{error}"


def with_diffaug(recipe: str) -> str:
    """The name of the recipe that adds DiffAug to this one."""
    return recipe.replace("baseline", "diffaug") if "baseline" in recipe else f"{recipe}+diffaug"


def gains(without: Iterable[Record], reached: Iterable[Record], *same: str) -> list[Record]:
    """What each record has more than the one without that agrees in the fields ``same``, where there is one."""
    key = itemgetter(*same)
    before = {key(r): r["value"] for r in without}
    return [{**r, "value": r["value"] - before[key(r)]} for r in reached if key(r) in before]


def select(records: Sequence[Record], **wanted: object) -> list[Record]:
    return [r for r in records if all(r[key] == value for key, value in wanted.items())]
