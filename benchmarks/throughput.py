"""What DiffAug costs over its U-Net and gains over the plain recipe; and what it adds to a training step.

    python -m benchmarks.throughput                                   # the embedded network
    python -m benchmarks.throughput --network adm256 --size 256 --batch-size 16 --compile       # on a GPU
    python -m benchmarks.throughput --network photos --batch-size 8 --max-batch 4 --compile     # 224 pixels
    python -m benchmarks.throughput training-step                     # examples/train_classifier.py
    python -m benchmarks.throughput training-step --model resnet50 --size 224 --network imagenet256 --batch-size 64

Methods take turns in one run: by CUDA events on a GPU, by the clock on a CPU. A ratio is the median over the rounds.
There are two baselines, each one call for the whole batch. The authors' way has the U-Net's torso in float16 under
autocast and cudnn.benchmark; on a CPU bfloat16, or float32 if that is not native. The plain recipe is what a user of
diffusers writes: float32, eager, contiguous. `adm256` is ADM-256, the paper's network, with random weights: speed
needs no others. Shares are of a large matrix product in DiffAug's dtype, and the network's five heaviest convolutions
stand beside it. Each variant of a training step is a run of the script on random pictures. A step counts from batch to
batch: reading, per-sample views, DiffAug, classifier, optimiser.
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
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import DiffAug, ScoreNetwork, load_score_network
from diffaug_transforms.score import Denoiser, NoiseSchedule
from diffaug_transforms.score.functional import diffuse, prediction_to_x0, to_signed, to_unit
from diffaug_transforms.score.preparing import fast_dtype
from diffaug_transforms.transforms.ensemble import denoised_views

from .harness.ceiling import HEAVIEST, SIDES, Work, convolutions, count_convolutions, dtype_name, products
from .harness.data import side_of
from .harness.options import default_device, positive_int, script_parser
from .harness.records import RESULTS, Record, write_results
from .harness.timing import cudnn_benchmark, peak_bytes, ratio, time_interleaved

SCRIPT = Path(__file__).parent.parent / "examples" / "train_classifier.py"


def parse_arguments() -> argparse.Namespace:
    parser = script_parser(__doc__, network="cifar10", rounds=15, seed=0)
    parser.add_argument("what", nargs="?", choices=("transform", "training-step"), default="transform")
    parser.add_argument(
        "--device", type=torch.device, default=default_device(), help="of the transform: cuda, cuda:1, cpu"
    )
    parser.add_argument("--size", type=positive_int, help="image side; default: the network's")
    parser.add_argument("--batch-size", type=positive_int, help="default: 64, and 128 in a training step")
    parser.add_argument("--ensemble-images", type=positive_int, default=8, help="images of the ensemble's batch")
    parser.add_argument("--compile", action="store_true", help="time DiffAug(compile=True) too")
    parser.add_argument(
        "--max-batch", type=positive_int, help="measure the memory of 1, 2 and 4 times N images in parts of N"
    )
    parser.add_argument("--model", default="cifar_resnet-32", help="that a training step trains")
    parser.add_argument(
        "--steps", type=positive_int, default=10, help="of one training run, of which each round has one"
    )
    parser.add_argument("--output", type=Path, help="default: throughput.json or training_step.json in results/")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(args.seed)
    if args.device.type == "cuda":
        torch.cuda.set_device(args.device.index or 0)  # the results name the current device
    if args.what == "transform":
        write_results("throughput", transform_records(args), args.output or RESULTS / "throughput.json")
        return
    with tempfile.TemporaryDirectory() as folder:
        records = step_records(args, time_training(args, Path(folder)))
    write_results("throughput", records, args.output or RESULTS / "training_step.json")


class Method(NamedTuple):
    """What is timed, how many images it takes, and its network's dtype."""

    run: Callable[[], Tensor]
    images: int
    dtype: torch.dtype


UNET, DIFFAUG, COMPILED = "bare U-Net", "DiffAug", "DiffAug compiled"
AUTHORS, PLAIN = "authors' way", "plain float32 recipe"
ALL_VIEWS, ONE_VIEW = "ensemble of all views", "ensemble of one view"
PRODUCT = "matrix product"
#: Which method's time is divided by which other's.
RATIOS = (
    (DIFFAUG, UNET),
    (AUTHORS, DIFFAUG),
    (PLAIN, DIFFAUG),
    (AUTHORS, COMPILED),
    (PLAIN, COMPILED),
    (COMPILED, DIFFAUG),
    (ALL_VIEWS, ONE_VIEW),
)


def transform_records(args: argparse.Namespace) -> list[Record]:
    device: torch.device = args.device
    network = build_network(args.network).to(device)
    size, batch_size = args.size or side_of(network), args.batch_size or 64
    images = torch.rand(batch_size, 3, size, size, device=device)
    methods = transform_methods(network, images, args.ensemble_images, args.compile)
    dtype = methods[DIFFAUG].dtype
    works, counts = ceilings(network, images, dtype)
    runs = {name: method.run for name, method in methods.items()}
    runs |= {name: work.run for name, work in works.items()}
    taken = time_interleaved(runs, args.rounds, device)
    common = {"benchmark": "throughput", "network": args.network, "size": size, "batch_size": batch_size}
    common |= {"dtype": dtype_name(dtype), "n": args.rounds, "seed": args.seed}
    records: list[Record] = []

    def add(method: str, metric: str, value: float, **more: Any) -> None:
        records.append({**common, "method": method, "metric": metric, "value": value, **more})

    for name, (_, number, its_dtype) in methods.items():
        own = {"batch_size": number, "dtype": dtype_name(its_dtype)}
        add(name, "images_per_second", number / median(taken[name]), **own)
    for name, other in RATIOS:
        if name in taken and other in taken:
            value, error = ratio(taken[name], taken[other])
            dtypes = dict.fromkeys(dtype_name(methods[key].dtype) for key in (name, other))
            own = {"batch_size": methods[name].images, "dtype": " over ".join(dtypes), "standard_error": error}
            add(f"{name} over {other}", "time_ratio", value, **own)
    ceiling = works[PRODUCT].speed(taken[PRODUCT])
    flops = unet_flops(network, images[:1])
    add(PRODUCT, "matmul_tflops", ceiling / 1e12, side=SIDES[device.type])
    for name in (DIFFAUG, COMPILED):
        if name in taken:
            add(name, "matmul_share", flops * batch_size / median(taken[name]) / ceiling)
    for name, count in counts.items():
        add(name, "matmul_share", works[name].speed(taken[name]) / ceiling, share_of_operations=count / flops)
    add("U-Net, one image", "unet_gflops", flops / 1e9)
    for number, used in memory_in_parts(network, images, args.max_batch).items():
        add(f"DiffAug(max_batch={args.max_batch})", "peak_bytes", used, batch_size=number)
    add("default", "import_seconds_over_torchvision", import_seconds(args.rounds))
    return records


def memory_in_parts(network: ScoreNetwork, images: Tensor, max_batch: int | None) -> dict[int, int]:
    """Bytes of the tensors that DiffAug makes, by the number of images, which go through the network in parts."""
    if max_batch is None:
        return {}
    augment = DiffAug(Denoiser(network, max_batch=max_batch))
    batches = {max_batch * n: images[:1].expand(max_batch * n, -1, -1, -1).contiguous() for n in (1, 2, 4)}
    augment(batches[max_batch])  # loads
    return {number: peak_bytes(lambda: augment(batch), images.device) for number, batch in batches.items()}  # noqa: B023


def transform_methods(network: ScoreNetwork, images: Tensor, few: int, compiled: bool) -> dict[str, Method]:
    """By name. The ensemble's methods take the first ``few`` images."""
    denoiser = Denoiser(network)
    ready = denoiser.ready(images.device, len(images))
    augment, augment_compiled = DiffAug(denoiser), DiffAug(network, compile=True)
    steps = [t for t in network.ensemble_timesteps if t > 0]
    first, half = images[:few], torch.float16 if images.is_cuda else fast_dtype(images.device)
    methods = {
        PLAIN: Method(plain_recipe(network, images), len(images), torch.float32),
        AUTHORS: Method(authors_way(network, images, half), len(images), half),
        UNET: Method(bare_unet(ready, images), len(images), ready.dtype),
        DIFFAUG: Method(lambda: augment(images), len(images), ready.dtype),
        ALL_VIEWS: Method(lambda: views_of(denoiser, first, steps), len(first), ready.dtype),
        ONE_VIEW: Method(lambda: views_of(denoiser, first, steps[:1]), len(first), ready.dtype),
    }
    if compiled:
        methods[COMPILED] = Method(lambda: augment_compiled(images), len(images), ready.dtype)
    return methods


def ceilings(network: ScoreNetwork, images: Tensor, dtype: torch.dtype) -> tuple[dict[str, Work], dict[str, int]]:
    """The matrix product and the network's heaviest convolutions; and each one's operations in one image's call."""
    operations = count_convolutions(network.unet, plain_recipe(network, images[:1]))
    works = {PRODUCT: products(SIDES[images.device.type], dtype, images.device)}
    counts = {}
    for shape, count in operations.most_common(HEAVIEST):
        works[str(shape)] = convolutions(shape, len(images), dtype, images.device)
        counts[str(shape)] = count
    return works, counts


def build_network(name: str) -> ScoreNetwork:
    if name != "adm256":
        return load_score_network(name)
    from diffusers import UNet2DModel

    from diffaug_transforms.score.openai import parse_flags, released_flags, unet_config

    unet = UNet2DModel(**unet_config(parse_flags(released_flags()["256x256_diffusion_uncond.pt"])))
    return ScoreNetwork(unet, NoiseSchedule.named("linear"), variance_type="learned_range")


def null_labels(network: ScoreNetwork, number: int, device: torch.device) -> Tensor | None:
    """Labels that stand for "no label", or None for an unconditional network."""
    return None if network.num_classes is None else torch.full((number,), network.null_class or 0, device=device)


def plain_recipe(network: ScoreNetwork, images: Tensor) -> Callable[[], Tensor]:
    """What a user of diffusers writes without this package: float32, contiguous, eager, one call for the batch.

    The scheduler's ``step`` takes one timestep for all images, so the denoised image is computed here.
    """
    from diffusers import DDPMScheduler

    unet: nn.Module = network.unet
    scheduler = DDPMScheduler(1000)
    alphas_cumprod = scheduler.alphas_cumprod.to(images.device)
    labels = null_labels(network, len(images), images.device)

    @torch.no_grad()
    def run() -> Tensor:
        x_0 = images * 2 - 1
        t = random_timesteps(network, images)
        x_t = scheduler.add_noise(x_0, torch.randn_like(x_0), t)
        output = tensor_of(unet(x_t, t, labels))[:, : x_t.shape[1]]
        if network.prediction_type == "sample":
            return (output.clamp(-1, 1) + 1) / 2
        alpha = alphas_cumprod[t].reshape(-1, 1, 1, 1)
        return (((x_t - (1 - alpha).sqrt() * output) / alpha.sqrt()).clamp(-1, 1) + 1) / 2

    return run


def authors_way(network: ScoreNetwork, images: Tensor, half: torch.dtype) -> Callable[[], Tensor]:
    """The way of guided-diffusion, on which the authors' code builds (its ``use_fp16``).

    The convolutions of the torso and the attention's projections have weights in ``half``. Group norms, the weights of
    the time embedding and all around the network are float32. cudnn.benchmark is on, and the batch is one call.
    """
    own = Denoiser(network, dtype=torch.float32).ready(images.device)
    unet = own.unet.to(memory_format=torch.contiguous_format)
    halve_torso(unet, half)
    labels = null_labels(network, len(images), images.device)

    @torch.no_grad()
    def run() -> Tensor:
        timesteps = random_timesteps(own, images)
        x_t = diffuse(to_signed(images), timesteps, torch.randn_like(images), own.schedule)
        with cudnn_benchmark(), torch.autocast(images.device.type, half, enabled=half != torch.float32):
            output = tensor_of(unet(x_t, timesteps, labels)).float()
        x_0 = prediction_to_x0(output[:, : own.in_channels], x_t, timesteps, own.schedule, own.prediction_type)
        return to_unit(x_0.clamp(-1, 1))

    return run


def halve_torso(unet: nn.Module, half: torch.dtype) -> None:
    """Another dtype for what ``convert_to_fp16`` of guided-diffusion converts."""
    for name, module in unet.named_modules():
        part, _, _ = name.partition(".")
        torso = part in ("conv_in", "down_blocks", "mid_block", "up_blocks")
        attention = isinstance(module, nn.Linear) and ".attentions." in name
        if torso and (isinstance(module, nn.Conv2d) or attention):
            module.to(half)
        if torso and isinstance(module, nn.GroupNorm):
            module.register_forward_hook(in_the_inputs_dtype)


def in_the_inputs_dtype(norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """As guided-diffusion's GroupNorm32: autocast gives float32."""
    return output.to(inputs[0].dtype)


def bare_unet(network: ScoreNetwork, images: Tensor) -> Callable[[], Tensor]:
    """The network call alone, as DiffAug makes it."""
    dtype = torch.float32 if network.takes_float32 else network.dtype
    x_t = (images * 2 - 1).to(dtype, memory_format=torch.channels_last)
    timesteps = random_timesteps(network, images)
    labels = null_labels(network, len(images), images.device)

    @torch.no_grad()
    def run() -> Tensor:
        return tensor_of(network.unet(x_t, timesteps, labels))

    return run


def random_timesteps(network: ScoreNetwork, images: Tensor) -> Tensor:
    """One for each image, of those that the network takes."""
    taken = network.schedule.timesteps
    return torch.randint(taken[0], taken[-1] + 1, (len(images),), device=images.device)


def tensor_of(output: Any) -> Tensor:
    """A U-Net's output, which diffusers wraps."""
    return output if isinstance(output, Tensor) else output.sample


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
