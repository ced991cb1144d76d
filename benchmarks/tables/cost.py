"""Tables of denoising, throughput and imagenet_cost: how well the network denoises, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from ..harness.tables import Formats, frame, in_order, markdown, metrics_table, rounded, table


def eps_mse() -> str:
    records = frame("denoising", metric="eps_mse").itertuples()
    body = [[r.mode, f"{r.value:.4f} ± {r.standard_error:.4f}", r.n] for r in records]
    return markdown(["branch", "eps-MSE, t uniform over 0…999 (mean ± standard error)", "images"], body)


def psnr() -> str:
    records = frame("denoising", metric="psnr").replace({"mode": {"unconditional": "denoised"}})
    return table(records, ["mode"], "timestep", rounded(1), header=["PSNR (dB) at t ="])


#: The networks of a short training, in denoising_teacher.
TRAINED = {"runs/pair/alone/network": "without a teacher", "runs/pair/teacher/network": "with the teacher cifar10"}


def small_networks(name: str = "denoising_small") -> str:
    """eps-MSE without labels and PSNR over t of each network, on the same images and noise."""
    records = frame(name).replace({"network": TRAINED})
    records = records[records["mode"] == "unconditional"]
    errors = records[records.metric == "eps_mse"].set_index("network")
    psnrs = records[records.metric == "psnr"]
    steps = sorted(psnrs.timestep.unique())
    body = []
    for network, own in psnrs.groupby("network", sort=False):
        decibels = own.set_index("timestep").value
        error = errors.loc[network]
        body.append(
            [network, f"{error.value:.4f} ± {error.standard_error:.4f}", *(f"{decibels[t]:.1f}" for t in steps)]
        )
    return markdown(["network", "eps-MSE", f"PSNR (dB) at t = {steps[0]}", *steps[1:]], body)


def throughput() -> str:
    """Speeds, ratios of times with their standard errors, and shares of the matrix product."""

    def setting(r: Any) -> str:
        return f"{r.size} px, batch {r.batch_size}, {r.dtype}"

    def share(r: Any) -> list[str]:
        part = "" if pd.isna(r.share_of_operations) else f"; {100 * r.share_of_operations:.0f} % of the operations"
        return [f"{r.method}, share of the matrix product", f"{100 * r.value:.0f} %", setting(r) + part]

    lines: dict[str, Callable[[Any], list[str]]] = {
        "images_per_second": lambda r: [f"{r.method}, images a second", f"{r.value:.1f}", setting(r)],
        "time_ratio": lambda r: [r.method, f"{r.value:.2f} ± {r.standard_error:.2f}", setting(r)],
        "matmul_tflops": lambda r: [r.method, f"{r.value:.2f} TFLOP/s", f"side {r.side:.0f}, {r.dtype}"],
        "matmul_share": share,
        "import_seconds_over_torchvision": lambda r: ["import, seconds over torchvision's", f"{r.value:.3f}", ""],
    }
    records = in_order(frame("throughput"), metric=lines)
    header = [f"median of {records.n.iloc[0]} rounds", "value", "setting"]
    return markdown(header, [lines[r.metric](r) for r in records.itertuples()])


def throughput_photos() -> str:
    """A line for each network that was measured at 224 pixels, each in a run of its own."""

    def value(records: pd.DataFrame, method: str, metric: str, text: str, scale: float = 1.0) -> str:
        found = records[(records.method == method) & (records.metric == metric)]
        return " / ".join(
            text.format(one.value * scale, getattr(one, "standard_error", 0)) for one in found.itertuples()
        )

    body = []
    for network in ("photos", "ffdnet", "adm256"):
        records = frame(f"throughput_{network}")
        of_ratio = "{:.2f} ± {:.2f}"
        body.append(
            [
                network,
                value(records, "U-Net, one image", "unet_gflops", "{:,.0f}"),
                value(records, "DiffAug", "images_per_second", "{:.2f}"),
                value(records, "plain float32 recipe", "images_per_second", "{:.2f}"),
                value(records, "plain float32 recipe over DiffAug", "time_ratio", of_ratio),
                value(records, "DiffAug compiled over DiffAug", "time_ratio", of_ratio),
                value(records, "DiffAug", "matmul_share", "{:.0f} %", 100),
                " / ".join(f"{r.value / 2**20:,.0f}" for r in records[records.metric == "peak_bytes"].itertuples()),
            ]
        )
    speeds = ["DiffAug, images a second", "plain recipe, images a second", "plain over DiffAug, time"]
    rest = ["compiled over DiffAug, time", "share of the matrix product", "MiB for 1, 2, 4 parts"]
    return markdown(["network", "GFLOP an image", *speeds, *rest], body)


def photos_psnr() -> str:
    """Decibels at each t, of both networks and of the noisy input."""
    records = frame("denoising_photos", metric="psnr")
    noisy = records[(records["mode"] == "noisy input") & (records.network == "photos")].assign(network="noisy input")
    both = pd.concat([records[records["mode"] == "unconditional"], noisy])
    return table(both, ["network"], "timestep", rounded(1), header=["PSNR (dB) at t ="])


def training_step(name: str = "training_step") -> str:
    header = ["DiffAug", "time, ratio", "memory, ratio", "seconds a step", "peak GiB"]
    formats: Formats = {"time_ratio": "{:.1f}".format, "memory_ratio": "{:.2f}".format}
    formats["seconds_per_step"] = "{:.2f}".format
    formats["peak_bytes"] = lambda value: f"{value / 2**30:.2f}"
    return metrics_table(frame(name), "method", header, formats)


def imagenet_hours() -> str:
    """The rates, then every run's network calls and hours."""
    records = frame("imagenet_cost", metric="hours")
    records["calls"] = records.network_calls.map(lambda calls: f"{calls / 1e6:.1f}")
    records["gpus"] = records.gpus.map({1: "hours, one GPU", 8: "hours, eight GPUs"})

    def hours(one: pd.DataFrame) -> str:
        return f"{one.value.item():,.{1 if one.value.item() < 100 else 0}f}"

    header = ["run", "network calls, million"]
    return rates(records.iloc[0]) + table(records, ["method", "calls"], "gpus", hours, header=header)


def rates(r: Any) -> str:
    """Whether the rates of the hours are measured or assumed, and what they are."""
    eighth = "Eight GPUs: an eighth of the time, which is assumed.\n\n"
    if r.rates == "measured":
        return (
            f"Rates **measured** on one {r.gpu}, bfloat16, 224 pixels, in images a second: "
            f"{r.unet_images_per_second:,.0f} by the U-Net, {r.classifier_images_per_second:,.0f} by the classifier, "
            f"{r.training_images_per_second:,.0f} in its training. {eighth}"
        )
    unet, classifier = r.peak_tflops * r.utilisation, r.peak_tflops * r.classifier_utilisation
    return (
        f"Rates **assumed** for {r.gpu} of {r.peak_tflops:g} TFLOP/s peak, bfloat16: "
        f"{100 * r.utilisation:.0f} % of it by the U-Net ({unet:.0f} TFLOP/s), "
        f"{100 * r.classifier_utilisation:.0f} % by the classifier ({classifier:.0f} TFLOP/s). {eighth}"
    )


def imagenet_disk() -> str:
    records = frame("imagenet_cost", metric="disk_bytes").itertuples()
    body = [[r.method, f"{r.bytes_a_pixel:g}", f"{r.value / 1e9:.0f}"] for r in records]
    return markdown(["one copy of the training set, 256 pixels", "bytes a pixel", "GB"], body)


def _imagenet(metric: str, title: str, unit: str, text: Any) -> str:
    return metrics_table(frame("imagenet_cost", metric=metric), "method", [title, unit], {metric: text})


TABLES = {
    "eps_mse": eps_mse,
    "psnr": psnr,
    "throughput": throughput,
    "throughput_photos": throughput_photos,
    "photos_psnr": photos_psnr,
    "training_step": training_step,
    "training_step_small": lambda: training_step("training_step_small"),
    "small_networks": small_networks,
    "teacher": lambda: small_networks("denoising_teacher"),
    "imagenet_hours": imagenet_hours,
    "imagenet_operations": lambda: _imagenet(
        "flop_per_image", "part", "GFLOP an image", lambda value: f"{value / 1e9:,.0f}"
    ),
    "imagenet_memory": lambda: _imagenet("bytes", "memory", "GiB", lambda value: f"{value / 2**30:.1f}"),
    "imagenet_disk": imagenet_disk,
}
