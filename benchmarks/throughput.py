"""What DiffAug costs over its U-Net, and gains over the plain recipe. Ratios of medians, interleaved in one run.

    python benchmarks/throughput.py                                   # the embedded network
    python benchmarks/throughput.py --network adm256 --size 224 --size 256 --batch-size 16 --compile   # on a GPU

The plain recipe is what one writes with diffusers in five lines: float32, eager, contiguous, `add_noise`, the U-Net,
`step().pred_original_sample`. `adm256` is ADM-256 (the paper's network) with random weights: speed needs no others.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DModel
from records import Record, write_results
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diffaug_transforms import DiffAug, DiffAugEnsemble, ScoreNetwork, load_score_network
from diffaug_transforms.score import NoiseSchedule

Timed = dict[str, Callable[[], object]]


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(args.seed)
    records: list[Record] = []
    reference = build_network(args.network).to(args.device)
    for size in args.size or [reference.image_size]:
        records += measure_size(reference, size, args)
    records.append(record(args, 0, "import_seconds_over_torchvision", import_cost(args.rounds), "default", args.rounds))
    write_results(__file__, records, args.output)
    for r in records:
        print(f"{r['size']:>4} px  {r['method']:<22} {r['metric']:<32} {r['value']:.4g}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="cifar10", help="name, folder, or adm256 (random weights)")
    parser.add_argument("--size", type=int, action="append", help="image side; repeatable; default: the network's")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--ensemble-images", type=int, default=8, help="images of the ensemble's batch")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds; every method runs once in each")
    parser.add_argument("--compile", action="store_true", help="time DiffAug(compile=True) too")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/throughput.json")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def build_network(name: str) -> ScoreNetwork:
    if name != "adm256":
        return load_score_network(name)
    from diffaug_transforms.score.openai import parse_flags, released_flags, unet_config

    unet = UNet2DModel(**unet_config(parse_flags(released_flags()["256x256_diffusion_uncond.pt"])))
    return ScoreNetwork(unet, NoiseSchedule.named("linear"), variance_type="learned_range")


def measure_size(reference: ScoreNetwork, size: int, args: argparse.Namespace) -> list[Record]:
    images = torch.rand(args.batch_size, 3, size, size, device=args.device)
    augment = DiffAug(reference)
    augment(images)
    dtype = str(augment.network.dtype).removeprefix("torch.")
    methods: Timed = {
        "plain recipe": plain_recipe(reference, images),
        "bare U-Net": bare_unet(augment.network, images),
        "DiffAug": lambda: augment(images),
    }
    if args.compile:
        compiled = DiffAug(reference, compile=True)
        methods["DiffAug compiled"] = lambda: compiled(images)
    methods |= ensemble_methods(reference, images[: args.ensemble_images])
    seconds = time_interleaved(methods, args.rounds, args.device)
    flops = unet_flops(reference, images[:1])
    ceiling = matmul_flops_per_second(augment.network.dtype, args)
    records = []
    for name, value in seconds.items():
        count = args.ensemble_images if "ensemble" in name else len(images)
        records.append(record(args, size, "images_per_second", count / value, name, count, dtype))
    views = sum(t > 0 for t in reference.ensemble_timesteps)
    ratios = {
        "DiffAug over the bare U-Net": seconds["DiffAug"] / seconds["bare U-Net"],
        "plain recipe over DiffAug": seconds["plain recipe"] / seconds["DiffAug"],
        f"ensemble, {views} network calls over one": seconds["ensemble of all views"] / seconds["ensemble of 1 view"],
    }
    if args.compile:
        ratios["plain recipe over DiffAug compiled"] = seconds["plain recipe"] / seconds["DiffAug compiled"]
    records += [record(args, size, "time_ratio", value, name, args.rounds, dtype) for name, value in ratios.items()]
    fastest = min(seconds[name] for name in ("DiffAug", "DiffAug compiled") if name in seconds)
    share = flops * len(images) / fastest / ceiling
    records.append(record(args, size, "matmul_share", share, "DiffAug, fastest", args.rounds, dtype))
    records.append(record(args, size, "matmul_tflops", ceiling / 1e12, "torch.mm 4096", args.rounds, dtype))
    records.append(record(args, size, "unet_gflops", flops / 1e9, "U-Net, one image", 1, dtype))
    return records


def plain_recipe(reference: ScoreNetwork, images: Tensor) -> Callable[[], object]:
    """What a user writes without this package: float32, contiguous, eager."""
    unet: nn.Module = reference.unet
    scheduler = DDPMScheduler(1000, prediction_type="epsilon", variance_type=reference.variance_type)
    labels = torch.full((len(images),), reference.null_class or 0, device=images.device)

    @torch.no_grad()
    def run() -> Tensor:
        x_0 = images * 2 - 1
        t = torch.randint(1000, (len(images),), device=images.device)
        x_t = scheduler.add_noise(x_0, torch.randn_like(x_0), t)
        output = unet(x_t, t, labels if reference.num_classes else None).sample
        views = [scheduler.step(output[i : i + 1], int(t[i]), x_t[i : i + 1]) for i in range(len(t))]
        return (torch.cat([view.pred_original_sample for view in views]) + 1) / 2

    return run


def bare_unet(network: ScoreNetwork, images: Tensor) -> Callable[[], object]:
    """The network call alone, as DiffAug makes it."""
    x_t = (images * 2 - 1).to(network.dtype, memory_format=torch.channels_last)
    timesteps = torch.randint(1000, (len(images),), device=images.device)
    labels = None if network.num_classes is None else torch.full_like(timesteps, network.null_class or 0)

    @torch.no_grad()
    def run() -> Tensor:
        return network.unet(x_t, timesteps, labels).sample

    return run


def ensemble_methods(reference: ScoreNetwork, images: Tensor) -> Timed:
    """The ensemble's network part: all of S above 0 against one timestep. The classifier is left out."""
    steps = [t for t in reference.ensemble_timesteps if t > 0]
    whole, single = (DiffAugEnsemble(nn.Flatten(), reference, timesteps=s) for s in (steps, steps[:1]))
    return {
        "ensemble of all views": lambda: whole.views(images),
        "ensemble of 1 view": lambda: single.views(images),
    }


def time_interleaved(methods: Timed, rounds: int, device: str) -> dict[str, float]:
    """Median seconds of each method; every round runs them all once, so that a busy machine slows all alike."""
    for method in methods.values():
        method()
        method()
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            synchronize(device)
            started = time.perf_counter()
            method()
            synchronize(device)
            taken[name].append(time.perf_counter() - started)
    return {name: float(torch.tensor(values).median()) for name, values in taken.items()}


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


@torch.no_grad()
def unet_flops(network: ScoreNetwork, image: Tensor) -> int:
    """Floating point operations of one image's network call, by torch's counter with attention as matrix products."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network.eps(image, torch.zeros(1, dtype=torch.int64, device=image.device))
    return counter.get_total_flops()


def matmul_flops_per_second(dtype: torch.dtype, args: argparse.Namespace, side: int = 4096) -> float:
    """What this machine's matrix product reaches in the same dtype: the ceiling that the share is of."""
    a, b = (torch.randn(side, side, device=args.device).to(dtype) for _ in range(2))
    return 2 * side**3 / time_interleaved({"mm": lambda: a @ b}, max(args.rounds // 2, 3), args.device)["mm"]


def import_cost(rounds: int) -> float:
    """Seconds of `import diffaug_transforms` after `import torchvision`, each in a fresh Python; their median."""
    code = """
import time, torchvision
start = time.perf_counter()
import diffaug_transforms
print(time.perf_counter() - start)
"""
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(rounds)]
    return float(torch.tensor([float(run.stdout) for run in runs]).median())


def record(
    args: argparse.Namespace, size: int, metric: str, value: float, method: str, n: int, dtype: str = "float32"
) -> Record:
    return {
        "benchmark": "throughput",
        "network": args.network,
        "method": method,
        "metric": metric,
        "value": value,
        "size": size,
        "batch_size": args.batch_size,
        "dtype": dtype,
        "n": n,
        "seed": args.seed,
    }


if __name__ == "__main__":
    main()
