"""How well a CIFAR-10 score network denoises: eps-MSE uniform over t, and PSNR of pred_x0 over t, on the test images.

python benchmarks/denoising.py                      # the embedded network, CIFAR-10 from the Hub
python benchmarks/denoising.py --data FOLDER --network runs/cifar10/network --output runs/denoising.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from cifar10_sets import load_test_images
from records import Record, write_results
from torch import Tensor
from tqdm.auto import tqdm

from diffaug_transforms import ScoreNetwork, load_score_network
from diffaug_transforms.score import diffuse, to_signed

PSNR_TIMESTEPS = range(50, 901, 50)


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(args.seed)
    network = load_score_network(args.network).to(args.device)
    pixels, labels = load_test_images(args.data, args.limit)
    images = to_signed(pixels.float() / 255)
    records: list[Record] = []
    for branch, given in (("unconditional", None), ("conditional", labels)):
        errors = eps_errors(network, images, given, args)
        records.append(record(args, branch, "eps_mse", errors, timestep="uniform"))
    for t in tqdm(PSNR_TIMESTEPS, desc="PSNR"):
        denoised, noisy = psnr_at(network, images[: args.psnr_images], t, args)
        records.append(record(args, "unconditional", "psnr", denoised, timestep=t))
        records.append(record(args, "noisy input", "psnr", noisy, timestep=t))
    write_results(__file__, records, args.output)
    for r in records:
        print(f"{r['mode']:>14} {r['metric']} t={r['timestep']}: {r['value']:.5f} +- {r['standard_error']:.5f}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="cifar10", help="name, Hub repository or folder; default: %(default)s")
    parser.add_argument("--data", default="uoft-cs/cifar10", help="Hub id or local folder; default: %(default)s")
    parser.add_argument("--limit", type=int, default=10_000, help="test images for eps-MSE; default: all 10,000")
    parser.add_argument("--psnr-images", type=int, default=1000, help="of them, for PSNR; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/denoising.json")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


@torch.inference_mode()
def eps_errors(network: ScoreNetwork, images: Tensor, labels: Tensor | None, args: argparse.Namespace) -> Tensor:
    """Mean squared error of the predicted noise, per image, each at a timestep of its own, stratified over 0...T-1."""
    count = len(images)
    order = torch.randperm(count)
    timesteps = ((order + torch.rand(count)) / count * network.num_timesteps).long()
    errors = []
    for part in tqdm(torch.arange(count).split(args.batch_size), desc="eps-MSE"):
        noise = torch.randn(images[part].shape)
        x_0, t, eps = (x.to(args.device) for x in (images[part], timesteps[part], noise))
        x_t = diffuse(x_0, t, eps, network.schedule)
        given = None if labels is None else labels[part].to(args.device)
        errors.append((network.eps(x_t, t, given) - eps).square().mean((1, 2, 3)).cpu())
    return torch.cat(errors)


@torch.inference_mode()
def psnr_at(network: ScoreNetwork, images: Tensor, t: int, args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """PSNR in dB (peak 2: the [-1, 1] scale) of pred_x0 and of the noisy x_t / sqrt(alphas_cumprod), per image."""
    denoised, noisy = [], []
    for x_0 in images.to(args.device).split(args.batch_size):
        timesteps = torch.full((len(x_0),), t, device=args.device)
        x_t = diffuse(x_0, timesteps, torch.randn(x_0.shape).to(args.device), network.schedule)
        denoised.append(psnr(network.pred_x0(x_t, timesteps), x_0))
        noisy.append(psnr((x_t / network.schedule.signal_scale[t]).clamp(-1, 1), x_0))
    return torch.cat(denoised).cpu(), torch.cat(noisy).cpu()


def psnr(image: Tensor, truth: Tensor) -> Tensor:
    return 10 * torch.log10(4 / (image - truth).square().mean((1, 2, 3)))


def record(args: argparse.Namespace, branch: str, metric: str, values: Tensor, timestep: int | str) -> Record:
    return {
        "benchmark": "denoising",
        "dataset": "cifar10",
        "network": args.network,
        "mode": branch,
        "metric": metric,
        "timestep": timestep,
        "value": float(values.mean()),
        "standard_error": float(values.std() / len(values) ** 0.5),
        "n": len(values),
        "seed": args.seed,
    }


if __name__ == "__main__":
    main()
