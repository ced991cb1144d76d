"""Pivots of tidy records: choosing them, averaging them over seeds, writing Markdown rows."""

from __future__ import annotations

from collections.abc import Sequence
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


def mean_over_seeds(records: Sequence[Record], sign: str = "") -> str:
    """Mean over seeds of the mean over sets, with the standard error over seeds where there are several; "" of none."""
    if not records:
        return ""
    by_seed: dict[int, list[float]] = {}
    for r in records:
        by_seed.setdefault(r["seed"], []).append(r["value"])
    means = [mean(values) for values in by_seed.values()]
    return f"{mean(means):{sign}.1f}" + (f" ± {stdev(means) / len(means) ** 0.5:.1f}" if len(means) > 1 else "")


def select(records: Sequence[Record], **wanted: object) -> list[Record]:
    return [r for r in records if all(r[key] == value for key, value in wanted.items())]
