"""The tables of imagenet_cost.py, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from pivots import pick, rows, select
from records import Record


def operations_table(records: Sequence[Record]) -> str:
    """What one image costs each part."""
    body = [[r["method"], f"{r['value'] / 1e9:,.0f}"] for r in select(records, metric="flop_per_image")]
    return rows(["part", "GFLOP an image"], body)


def hours_table(records: Sequence[Record]) -> str:
    """Every run's network calls and hours, with the assumed rate above."""
    own = select(records, metric="hours")
    body = []
    for name in dict.fromkeys(r["method"] for r in own):
        one, eight = (pick(own, method=name, gpus=number) for number in (1, 8))
        calls = f"{one['network_calls'] / 1e6:.1f}"
        body.append([name, calls, *(f"{r['value']:,.{1 if r['value'] < 100 else 0}f}" for r in (one, eight))])
    return _note(own[0]) + rows(["run", "network calls, million", "hours, one GPU", "hours, eight GPUs"], body)


def bytes_table(records: Sequence[Record]) -> str:
    body = [[r["method"], f"{r['value'] / 2**30:.1f}"] for r in select(records, metric="bytes")]
    return rows(["memory", "GiB"], body)


def disk_table(records: Sequence[Record]) -> str:
    own = select(records, metric="disk_bytes")
    body = [[r["method"], f"{r['bytes_a_pixel']:g}", f"{r['value'] / 1e9:.0f}"] for r in own]
    return rows(["one copy of the training set, 256 pixels", "bytes a pixel", "GB"], body)


def _note(r: Record) -> str:
    unet, classifier = (r["peak_tflops"] * r[share] for share in ("utilisation", "classifier_utilisation"))
    return (
        f"Computed for {r['gpu']} of {r['peak_tflops']:g} TFLOP/s peak, bfloat16; assumed to be reached: "
        f"{100 * r['utilisation']:.0f} % of it by the U-Net ({unet:.0f} TFLOP/s), "
        f"{100 * r['classifier_utilisation']:.0f} % by the classifier ({classifier:.0f} TFLOP/s). "
        "Eight GPUs: an eighth of the time.\n\n"
    )
