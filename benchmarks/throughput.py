"""What DiffAug costs over its U-Net and gains over the plain recipe; and what it adds to a training step.

    python -m benchmarks.throughput                                   # the embedded network
    python -m benchmarks.throughput --network adm256 --size 256 --batch-size 16 --compile       # on a GPU
    python -m benchmarks.throughput training-step                     # examples/train_classifier.py
    python -m benchmarks.throughput training-step --model resnet50 --size 224 --network imagenet256 --batch-size 64

All are ratios of medians, measured in one run in which the methods take turns. The plain recipe is diffusers' own:
float32, eager, contiguous, `add_noise`, the U-Net, `step().pred_original_sample`. `adm256` is ADM-256, the paper's
network, with random weights: speed needs no others. Each variant of a training step is a run of the script on random
pictures. A step counts from batch to batch: reading, per-sample views, DiffAug, classifier, optimiser.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import DiffAug, ScoreNetwork, load_score_network
from diffaug_transforms.score import Denoiser, NoiseSchedule
from diffaug_transforms.transforms.ensemble import denoised_views

from .harness.options import default_device, script_parser
from .harness.records import RESULTS, Record, write_results
from .harness.timing import Methods, time_interleaved

SCRIPT = Path(__file__).parent.parent / "examples" / "train_classifier.py"


def parse_arguments() -> argparse.Namespace:
    parser = script_parser(__doc__, network="cifar10", rounds=15, seed=0)
    parser.add_argument("what", nargs="?", choices=("transform", "training-step"), default="transform")
    parser.add_argument("--size", type=int, help="image side; default: the network's")
    parser.add_argument("--batch-size", type=int, help="default: 64, and 128 in a training step")
    parser.add_argument("--ensemble-images", type=int, default=8, help="images of the ensemble's batch")
    parser.add_argument("--compile", action="store_true", help="time DiffAug(compile=True) too")
    parser.add_argument("--model", default="cifar_resnet-32", help="that a training step trains")
    parser.add_argument("--steps", type=int, default=10, help="of one training run, of which each round has one")
    parser.add_argument("--output", type=Path, help="default: throughput.json or training_step.json in results/")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(args.seed)
    if args.what == "transform":
        write_results("throughput", transform_records(args), args.output or RESULTS / "throughput.json")
        return
    with tempfile.TemporaryDirectory() as folder:
        records = step_records(args, time_training(args, Path(folder)))
    write_results("throughput", records, args.output or RESULTS / "training_step.json")


def transform_records(args: argparse.Namespace) -> list[Record]:
    device = default_device()
    network = build_network(args.network).to(device)
    size, batch_size = args.size or network.image_size, args.batch_size or 64
    images = torch.rand(batch_size, 3, size, size, device=device)
    denoiser = Denoiser(network)
    ready = denoiser.ready(device)
    augment, compiled = DiffAug(denoiser), DiffAug(network, compile=True)
    steps = [t for t in network.ensemble_timesteps if t > 0]
    few = images[: args.ensemble_images]
    methods: Methods = {
        "plain recipe": plain_recipe(network, images),
        "bare U-Net": bare_unet(ready, images),
        "DiffAug": lambda: augment(images),
        **({"DiffAug compiled": lambda: compiled(images)} if args.compile else {}),
        "ensemble of all views": lambda: views_of(denoiser, few, steps),
        "ensemble of 1 view": lambda: views_of(denoiser, few, steps[:1]),
    }
    seconds = {name: median(times) for name, times in time_interleaved(methods, args.rounds, device).items()}
    dtype = str(ready.dtype).removeprefix("torch.")
    common = {"benchmark": "throughput", "network": args.network, "size": size, "batch_size": batch_size}
    common |= {"dtype": dtype, "n": args.rounds, "seed": args.seed}
    records: list[Record] = []

    def add(method: str, metric: str, value: float) -> None:
        records.append({**common, "method": method, "metric": metric, "value": value})

    for name, value in seconds.items():
        add(name, "images_per_second", len(few if "ensemble" in name else images) / value)
    add("DiffAug over the bare U-Net", "time_ratio", seconds["DiffAug"] / seconds["bare U-Net"])
    add("plain recipe over DiffAug", "time_ratio", seconds["plain recipe"] / seconds["DiffAug"])
    calls = f"ensemble, {len(steps)} network calls over one"
    add(calls, "time_ratio", seconds["ensemble of all views"] / seconds["ensemble of 1 view"])
    if args.compile:
        value = seconds["plain recipe"] / seconds["DiffAug compiled"]
        add("plain recipe over DiffAug compiled", "time_ratio", value)
    fastest = min(value for name, value in seconds.items() if name.startswith("DiffAug"))
    flops, ceiling = unet_flops(network, images[:1]), matmul_flops_per_second(ready.dtype, device, args.rounds)
    add("DiffAug, fastest", "matmul_share", flops * len(images) / fastest / ceiling)
    add("torch.mm 4096", "matmul_tflops", ceiling / 1e12)
    add("U-Net, one image", "unet_gflops", flops / 1e9)
    add("default", "import_seconds_over_torchvision", import_seconds(args.rounds))
    return records


def build_network(name: str) -> ScoreNetwork:
    if name != "adm256":
        return load_score_network(name)
    from diffusers import UNet2DModel

    from diffaug_transforms.score.openai import parse_flags, released_flags, unet_config

    unet = UNet2DModel(**unet_config(parse_flags(released_flags()["256x256_diffusion_uncond.pt"])))
    return ScoreNetwork(unet, NoiseSchedule.named("linear"), variance_type="learned_range")


def plain_recipe(network: ScoreNetwork, images: Tensor) -> Callable[[], Tensor]:
    """What a user writes without this package: float32, contiguous, eager."""
    from diffusers import DDPMScheduler

    unet: nn.Module = network.unet
    scheduler = DDPMScheduler(1000, prediction_type="epsilon", variance_type=network.variance_type)
    labels = torch.full((len(images),), network.null_class or 0, device=images.device)

    @torch.no_grad()
    def run() -> Tensor:
        x_0 = images * 2 - 1
        t = torch.randint(1000, (len(images),), device=images.device)
        x_t = scheduler.add_noise(x_0, torch.randn_like(x_0), t)
        output = unet(x_t, t, labels if network.num_classes else None).sample
        views = [scheduler.step(output[i : i + 1], int(t[i]), x_t[i : i + 1]) for i in range(len(t))]
        return (torch.cat([view.pred_original_sample for view in views]) + 1) / 2

    return run


def bare_unet(network: ScoreNetwork, images: Tensor) -> Callable[[], Tensor]:
    """The network call alone, as DiffAug makes it."""
    x_t = (images * 2 - 1).to(network.dtype, memory_format=torch.channels_last)
    timesteps = torch.randint(1000, (len(images),), device=images.device)
    labels = None if network.num_classes is None else torch.full_like(timesteps, network.null_class or 0)

    @torch.no_grad()
    def run() -> Tensor:
        return network.unet(x_t, timesteps, labels).sample

    return run


def views_of(denoiser: Denoiser, images: Tensor, steps: list[int]) -> Tensor:
    """The ensemble without its classifier."""
    return denoised_views(denoiser, images, steps, torch.randn(len(steps), *images.shape, device=images.device))


@torch.no_grad()
def unet_flops(network: ScoreNetwork, image: Tensor) -> int:
    """Floating point operations of one image's network call, by torch's counter with attention as matrix products."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network.eps(image, torch.zeros(1, dtype=torch.int64, device=image.device))
    return counter.get_total_flops()


def matmul_flops_per_second(dtype: torch.dtype, device: torch.device, rounds: int, side: int = 4096) -> float:
    """What this machine's matrix product reaches in the same dtype: the ceiling that the share is of."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / median(time_interleaved({"mm": lambda: a @ b}, max(rounds // 2, 3), device)["mm"])


def import_seconds(rounds: int) -> float:
    """Seconds of `import diffaug_transforms` after `import torchvision`, each in a fresh Python; their median."""
    code = "import time, torchvision; start = time.perf_counter(); import diffaug_transforms\n"
    command = [sys.executable, "-c", code + "print(time.perf_counter() - start)"]
    return median(float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(rounds))


def time_training(args: argparse.Namespace, work: Path) -> dict[str, list[Record]]:
    """What each run of each variant says of itself: its median step and its peak memory among it."""
    size, batch_size = args.size or 32, args.batch_size or 128
    for name in ("images/train", "images_diffaug"):
        write_pictures(work / name / "class0", batch_size, size)
    variants: dict[str, list[Any]] = {
        "no DiffAug": ["--recipe", "baseline"],
        "prepared folder": ["--recipe", "diffaug", "--diffaug-data", work / "images_diffaug"],
        "in the loop": ["--recipe", "diffaug"],
        "in the loop, p = 0.5": ["--recipe", "diffaug", "--p", 0.5],
        "in the loop, float32": ["--recipe", "diffaug", "--mixed-precision", "no"],
        "in the loop, compiled": ["--recipe", "diffaug", "--compile"],
    }
    command = [sys.executable, SCRIPT, "--data", work / "images", "--output", work / "run", "--model", args.model]
    command += ["--size", size, "--network", args.network, "--batch-size", batch_size, "--steps", args.steps]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    runs: dict[str, list[Record]] = {name: [] for name in variants}
    for _ in range(args.rounds):
        for name, options in variants.items():
            subprocess.run([str(part) for part in [*command, *options]], check=True, env=environment)
            runs[name].append(json.loads((work / "run" / "classifier.json").read_text()))
    return runs


def write_pictures(folder: Path, number: int, size: int) -> None:
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for i in range(number):
        pixels = torch.randint(256, (3, size, size), generator=generator, dtype=torch.uint8)
        F.to_pil_image(pixels).save(folder / f"{i:05d}.png")


def step_records(args: argparse.Namespace, runs: dict[str, list[Record]]) -> list[Record]:
    """Seconds and peak bytes of each variant, and both as multiples of those without DiffAug."""
    common = {"benchmark": "training_step", "model": args.model, "size": args.size or 32, "network": args.network}
    common |= {"batch_size": args.batch_size or 128, "n": args.rounds, "steps": args.steps, "seed": 0}
    metrics = ("seconds_per_step", "peak_bytes")
    medians = {name: {m: median(run[m] for run in own) for m in metrics} for name, own in runs.items()}
    records = []
    for name, own in medians.items():
        ratios = (own[metric] / medians["no DiffAug"][metric] for metric in metrics)
        values = {**own, **dict(zip(("time_ratio", "memory_ratio"), ratios))}
        records += [{**common, "method": name, "metric": metric, "value": value} for metric, value in values.items()]
    return records


if __name__ == "__main__":
    main()
