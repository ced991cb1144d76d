"""How well a CIFAR-10 score network denoises: eps-MSE uniform over t, and PSNR of pred_x0 over t, on the test images.

python -m benchmarks.denoising                      # the embedded network, CIFAR-10 from the Hub
python -m benchmarks.denoising --data FOLDER --network runs/cifar10/network --output runs/denoising.json
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from tqdm.auto import tqdm

from diffaug_transforms import ScoreNetwork, load_score_network
from diffaug_transforms.score import diffuse, to_signed

from .harness.data import HubImages, read_images
from .harness.options import default_device, script_parser
from .harness.records import RESULTS, Record, summary, write_results

PSNR_TIMESTEPS = range(50, 901, 50)


def parse_arguments() -> argparse.Namespace:
    output = RESULTS / "denoising.json"
    parser = script_parser(__doc__, network="cifar10", data="uoft-cs/cifar10", batch_size=250, seed=0, output=output)
    parser.add_argument("--limit", type=int, default=10_000, help="test images for eps-MSE")
    parser.add_argument("--psnr-images", type=int, default=1000, help="of them, for PSNR")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(args.seed)
    network = load_score_network(args.network).to(default_device())
    data = HubImages(args.data)
    images, labels = read_images(data, range(min(args.limit, len(data))))
    x_0 = to_signed(images)
    common = {"benchmark": "denoising", "dataset": "cifar10", "network": args.network, "seed": args.seed}
    records: list[Record] = []
    for branch, given in (("unconditional", None), ("conditional", labels)):
        errors = eps_errors(network, x_0, given, args.batch_size)
        records.append({**common, "mode": branch, "metric": "eps_mse", "timestep": "uniform", **summary(errors, 8)})
    for t in tqdm(PSNR_TIMESTEPS, desc="PSNR"):
        for mode, values in psnr_at(network, x_0[: args.psnr_images], t, args.batch_size).items():
            records.append({**common, "mode": mode, "metric": "psnr", "timestep": t, **summary(values)})
    write_results("denoising", records, args.output)


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
