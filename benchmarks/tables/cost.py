"""Tables of denoising, throughput and imagenet_cost: how well the network denoises, and what it costs."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..harness.tables import frame, markdown, rounded, table


def eps_mse() -> str:
    records = frame("denoising", metric="eps_mse").itertuples()
    body = [[r.mode, f"{r.value:.4f} ± {r.standard_error:.4f}", r.n] for r in records]
    return markdown(["branch", "eps-MSE, t uniform over 0…999 (mean ± standard error)", "images"], body)


def psnr() -> str:
    records = frame("denoising", metric="psnr").replace({"mode": {"unconditional": "denoised"}})
    return table(records, ["mode"], "timestep", rounded(1), header=["PSNR (dB) at t ="])


def throughput() -> str:
    body = []
    for r in frame("throughput").itertuples():
        if r.metric == "time_ratio":
            body.append([r.method, f"{r.value:.2f}", f"{r.size} px, batch {r.batch_size}, {r.dtype}"])
        elif r.metric == "matmul_share":
            body.append(["share of the matmul ceiling", f"{100 * r.value:.0f} %", f"{r.dtype}, {r.method}"])
        elif r.metric == "import_seconds_over_torchvision":
            body.append(["import, seconds over torchvision's", f"{r.value:.3f}", f"median of {r.n}"])
    return markdown(["ratio of times", "value", "setting"], body)


def training_step() -> str:
    value = frame("training_step").pivot(index="method", columns="metric", values="value")
    order = frame("training_step").method.unique()
    body = [
        [
            r.Index,
            f"{r.time_ratio:.1f}",
            f"{r.memory_ratio:.2f}",
            f"{r.seconds_per_step:.2f}",
            f"{r.peak_bytes / 2**30:.2f}",
        ]
        for r in value.loc[order].itertuples()
    ]
    return markdown(["DiffAug", "time, ratio", "memory, ratio", "seconds a step", "peak GiB"], body)


def imagenet_operations() -> str:
    """What one image costs each part."""
    return _values("flop_per_image", lambda r: [f"{r.value / 1e9:,.0f}"], "part", "GFLOP an image")


def imagenet_memory() -> str:
    return _values("bytes", lambda r: [f"{r.value / 2**30:.1f}"], "memory", "GiB")


def imagenet_disk() -> str:
    title = "one copy of the training set, 256 pixels"
    return _values(
        "disk_bytes", lambda r: [f"{r.bytes_a_pixel:g}", f"{r.value / 1e9:.0f}"], title, "bytes a pixel", "GB"
    )


def imagenet_hours() -> str:
    """Every run's network calls and hours, with the assumed rate above."""
    records = frame("imagenet_cost", metric="hours")
    records["calls"] = records.network_calls.map(lambda calls: f"{calls / 1e6:.1f}")
    records["gpus"] = records.gpus.map({1: "hours, one GPU", 8: "hours, eight GPUs"})

    def hours(one: pd.DataFrame) -> str:
        return f"{one.value.item():,.{1 if one.value.item() < 100 else 0}f}"

    header = ["run", "network calls, million"]
    return _assumed(records.iloc[0]) + table(records, ["method", "calls"], "gpus", hours, header=header)


def _values(metric: str, cells: Any, *header: str) -> str:
    return markdown(header, [[r.method, *cells(r)] for r in frame("imagenet_cost", metric=metric).itertuples()])


def _assumed(r: Any) -> str:
    unet, classifier = (r.peak_tflops * share for share in (r.utilisation, r.classifier_utilisation))
    return (
        f"Computed for {r.gpu} of {r.peak_tflops:g} TFLOP/s peak, bfloat16; assumed to be reached: "
        f"{100 * r.utilisation:.0f} % of it by the U-Net ({unet:.0f} TFLOP/s), "
        f"{100 * r.classifier_utilisation:.0f} % by the classifier ({classifier:.0f} TFLOP/s). "
        "Eight GPUs: an eighth of the time.\n\n"
    )


TABLES = {
    "eps_mse": eps_mse,
    "psnr": psnr,
    "throughput": throughput,
    "training_step": training_step,
    "imagenet_hours": imagenet_hours,
    "imagenet_operations": imagenet_operations,
    "imagenet_memory": imagenet_memory,
    "imagenet_disk": imagenet_disk,
}
