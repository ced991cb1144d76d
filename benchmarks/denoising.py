"""How well score networks denoise: eps-MSE uniform over t, and PSNR of pred_x0 over t, on the same images and noise.

    python -m benchmarks.denoising                      # the embedded network, CIFAR-10 from the Hub
    python -m benchmarks.denoising --network cifar10 cifar10-small --output runs/denoising.json
    python -m benchmarks.denoising --network photos ffdnet --data data/bsds500 --size 224 --batch-size 4 --limit 100 \\
        --psnr-timesteps 25 50 100 145 --output benchmarks/results/denoising_photos.json

A network that takes only some timesteps has no eps-MSE, and no PSNR at the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms import v2
from tqdm.auto import tqdm

from diffaug_transforms import ScoreNetwork, load_score_network
from diffaug_transforms.score import diffuse, to_signed

from .harness.data import HubImages, read_images
from .harness.options import default_device, nonnegative_int, positive_int, script_parser
from .harness.records import RESULTS, Record, summary, write_results

PSNR_TIMESTEPS = list(range(50, 901, 50))


def parse_arguments() -> argparse.Namespace:
    output = RESULTS / "denoising.json"
    parser = script_parser(__doc__, data="uoft-cs/cifar10", batch_size=250, seed=0, output=output)
    parser.add_argument("--network", nargs="+", default=["cifar10"], help="each as DiffAug's network")
    parser.add_argument("--size", type=positive_int, help="side of the centre crops; default: images as they are")
    parser.add_argument("--limit", type=positive_int, default=10_000, help="test images for eps-MSE")
    parser.add_argument("--psnr-images", type=positive_int, default=1000, help="of them, for PSNR")
    parser.add_argument("--psnr-timesteps", type=nonnegative_int, nargs="+", default=PSNR_TIMESTEPS)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    data = HubImages(args.data, transform=v2.CenterCrop(args.size) if args.size else None)
    images, labels = read_images(data, range(min(args.limit, len(data))))
    records = [record for name in args.network for record in records_of(name, to_signed(images), labels, args)]
    write_results("denoising", records, args.output)


def records_of(name: str, x_0: Tensor, labels: Tensor, args: argparse.Namespace) -> Iterator[Record]:
    """Of one network. Every network gets the same timesteps and noise."""
    network = load_score_network(name).to(default_device())
    taken = network.schedule.timesteps
    common = {"benchmark": "denoising", "dataset": Path(args.data).name, "network": name, "seed": args.seed}
    branches = {"unconditional": None} | ({"conditional": labels} if network.num_classes else {})
    for branch, given in branches.items() if len(taken) == network.num_timesteps else ():
        torch.manual_seed(args.seed)
        errors = eps_errors(network, x_0, given, args.batch_size)
        yield {**common, "mode": branch, "metric": "eps_mse", "timestep": "uniform", **summary(errors, 8)}
    for t in tqdm([t for t in args.psnr_timesteps if t in taken], desc=f"PSNR of {name}"):
        torch.manual_seed(args.seed + t)
        for mode, values in psnr_at(network, x_0[: args.psnr_images], t, args.batch_size).items():
            yield {**common, "mode": mode, "metric": "psnr", "timestep": t, **summary(values)}


@torch.inference_mode()
def eps_errors(network: ScoreNetwork, x_0: Tensor, labels: Tensor | None, batch_size: int) -> Tensor:
    """Mean squared error of the predicted noise per image, each at its own timestep, stratified over 0...T-1."""
    count = len(x_0)
    timesteps = ((torch.randperm(count) + torch.rand(count)) / count * network.num_timesteps).long()
    errors = []
    for places in tqdm(torch.arange(count).split(batch_size), desc="eps-MSE"):
        t, eps = timesteps[places].to(x_0.device), torch.randn(x_0[places].shape).to(x_0.device)
        x_t = diffuse(x_0[places], t, eps, network.schedule)
        predicted = network.eps(x_t, t, None if labels is None else labels[places])
        errors.append((predicted - eps).square().mean((1, 2, 3)).cpu())
    return torch.cat(errors)


@torch.inference_mode()
def psnr_at(network: ScoreNetwork, x_0: Tensor, t: int, batch_size: int) -> dict[str, Tensor]:
    """PSNR per image of pred_x0, and of the noisy input x_t / sqrt(alphas_cumprod), clipped."""
    found: dict[str, list[Tensor]] = {"unconditional": [], "noisy input": []}
    for part in x_0.split(batch_size):
        timesteps = torch.full((len(part),), t, device=part.device)
        x_t = diffuse(part, timesteps, torch.randn(part.shape).to(part.device), network.schedule)
        found["unconditional"].append(psnr(network.pred_x0(x_t, timesteps), part).cpu())
        found["noisy input"].append(psnr((x_t / network.schedule.signal_scale[t]).clamp(-1, 1), part).cpu())
    return {mode: torch.cat(values) for mode, values in found.items()}


def psnr(image: Tensor, truth: Tensor) -> Tensor:
    """In dB, with the peak 2 of the [-1, 1] scale."""
    return 10 * torch.log10(4 / (image - truth).square().mean((1, 2, 3)))


if __name__ == "__main__":
    main()
