"""Theorem 1 on a score network: is the denoiser's Jacobian a posterior covariance, and which changes does it pass on?

    python -m benchmarks.jacobian --data FOLDER_OR_HUB_ID

For exact scores J = d pred_x0 / d x_t is sqrt(abar) / (1 - abar) Cov[x_0 | x_t] (Sastry et al., NeurIPS 2024, Theorem
1): symmetric, and its trace is the denoiser's own error. Test images, one noise for each, no labels, float32. Metrics:
    asymmetry       ||J - J^T|| / ||J||, Frobenius: 0 if symmetric, sqrt(2) for independent entries. Mean over
                    images. Mode "random": from random signs v, as E ||M v||^2 = ||M||^2 (Hutchinson 1990); mode
                    "leading": of J V and J^T V alone, V its leading right singular vectors.
    predicted_mse   (1 - abar) / sqrt(abar) tr J / d, the trace from the same v: what Theorem 1 says of the mean squared
                    error of pred_x0, not clipped, per entry on [-1, 1]. Mean over images.
    mse             that error itself.
    mse_ratio       mean predicted_mse over mean mse: 1 for exact scores.
    singular_value  of J, by rank, mean over images. The posterior's variance along it is (1 - abar) / sqrt(abar) times
                    as much.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from diffaug_transforms import ScoreNetwork, load_score_network
from diffaug_transforms.robustness import (
    LeadingDirections,
    jacobian_vector_product,
    leading_directions,
    vector_jacobian_product,
)
from diffaug_transforms.robustness.evaluation.batches import draw_noise
from diffaug_transforms.robustness.evaluation.sets import HubImages
from diffaug_transforms.score import diffuse, to_signed, to_unit

from .harness.data import read_images
from .harness.options import default_device, nonnegative_int, positive_float, positive_int, script_parser
from .harness.pictures import draw_rows, stretch
from .harness.records import RESULTS, Record, summary, write_results


def parse_arguments() -> argparse.Namespace:
    common: dict[str, Any] = {"data": "uoft-cs/cifar10", "network": "cifar10", "timesteps": [25, 50, 100, 200, 400]}
    common |= {"seed": 0, "pictures": [15, 34, 1], "output": RESULTS / "jacobian.json"}
    parser = script_parser(__doc__, **common)
    parser.add_argument("--images", type=positive_int, default=40, help="the first test images")
    parser.add_argument("--vectors", type=positive_int, default=6, help="random v for each image and t")
    parser.add_argument("--leading-images", type=positive_int, default=8, help="of them, for the leading directions")
    parser.add_argument("--iterations", type=positive_int, default=5, help="of leading_directions")
    parser.add_argument("--picture-timesteps", type=nonnegative_int, nargs="+", default=[100, 300])
    parser.add_argument(
        "--move", type=positive_float, default=0.15, help="along a direction, as a share of the noise's length"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    network = load_score_network(args.network).to(default_device(), torch.float32)
    data = HubImages(args.data)
    if args.pictures:
        draw(network, data, args)
    places = range(min(args.images, len(data)))
    x_0 = to_signed(read_images(data, places)[0])
    noise = draw_noise(places, len(args.timesteps), x_0.shape[1:], args.seed).to(x_0.device)
    common = {"benchmark": "jacobian", "dataset": "cifar10", "network": args.network}
    records: list[Record] = []
    for t, drawn in zip(tqdm(args.timesteps), noise):
        for r in (*of_random(network, x_0, t, drawn, args), *of_leading(network, x_0, t, drawn, args)):
            records.append({**common, "timestep": t, **r, "seed": args.seed})
    write_results("jacobian", records, args.output)


def of_random(network: ScoreNetwork, x_0: Tensor, t: int, noise: Tensor, args: argparse.Namespace) -> Iterator[Record]:
    """The asymmetry and the errors at one t, from images (B, C, H, W) in [-1, 1] and noise like them."""
    timesteps = torch.full((len(x_0),), t, device=x_0.device)
    x_t = diffuse(x_0, timesteps, noise, network.schedule)
    generator = torch.Generator().manual_seed(args.seed)
    skew, size, trace = (torch.zeros(len(x_0), device=x_0.device) for _ in range(3))
    for _ in range(args.vectors):
        v = (torch.randint(2, x_0.shape, generator=generator) * 2.0 - 1).to(x_0.device)
        forward = jacobian_vector_product(network, x_t, timesteps, v)
        skew += squared_norm(forward - vector_jacobian_product(network, x_t, timesteps, v))
        size += squared_norm(forward)
        trace += (v * forward).sum((1, 2, 3)) / args.vectors
    signal, spread = network.schedule.signal_scale[t].item(), network.schedule.noise_scale[t].item()
    with torch.no_grad():
        mse = (network.pred_x0(x_t, timesteps, clip=False) - x_0).square().mean((1, 2, 3))
    predicted = spread**2 / signal * trace / x_0[0].numel()
    ratio = predicted.mean() / mse.mean()
    # The error of a ratio of means, to first order.
    ratio_error = (predicted - ratio * mse).std() / mse.mean() / len(mse) ** 0.5
    ratio_value = {"value": round(ratio.item(), 5), "standard_error": round(ratio_error.item(), 5), "n": len(mse)}
    values = {"asymmetry": (skew / size).sqrt(), "predicted_mse": predicted, "mse": mse}
    yield from ({"mode": "random", "metric": metric, **summary(value)} for metric, value in values.items())
    yield {"mode": "random", "metric": "mse_ratio", **ratio_value}


def of_leading(network: ScoreNetwork, x_0: Tensor, t: int, noise: Tensor, args: argparse.Namespace) -> Iterator[Record]:
    """The asymmetry along the leading directions, and their singular values."""
    timestep, chosen = torch.tensor([t], device=x_0.device), slice(args.leading_images)
    asymmetries, spectra = [], []
    for image, drawn in zip(x_0[chosen], noise[chosen]):
        x_t = diffuse(image[None], timestep, drawn[None], network.schedule)
        values, directions = find_directions(network, x_t[0], t, args)
        arguments = network, x_t.expand_as(directions), timestep.expand(len(directions)), directions
        forward, backward = jacobian_vector_product(*arguments), vector_jacobian_product(*arguments)
        asymmetries.append((squared_norm(forward - backward).sum() / squared_norm(forward).sum()).sqrt())
        spectra.append(values)
    yield {"mode": "leading", "metric": "asymmetry", **summary(torch.stack(asymmetries))}
    for rank, values in enumerate(torch.stack(spectra, dim=1), start=1):
        yield {"mode": "leading", "metric": "singular_value", "rank": rank, **summary(values)}


def find_directions(network: ScoreNetwork, x_t: Tensor, t: int, args: argparse.Namespace) -> LeadingDirections:
    generator = torch.Generator().manual_seed(args.seed)
    return leading_directions(network, x_t, t, k=5, iterations=args.iterations, generator=generator)


def squared_norm(vectors: Tensor) -> Tensor:
    return vectors.square().sum((1, 2, 3))


def draw(network: ScoreNetwork, data: HubImages, args: argparse.Namespace) -> None:
    """Images and what their leading directions do: pred_x0 of x_t moved along them, either way."""
    x_0 = to_signed(read_images(data, args.pictures)[0])
    noise = draw_noise(args.pictures, len(args.picture_timesteps), x_0.shape[1:], args.seed).to(x_0.device)
    rows = {
        f"image {place}, t = {t}": row(network, image, t, drawn, args)
        for t, drawn_at in zip(args.picture_timesteps, noise)
        for place, image, drawn in zip(args.pictures, x_0, drawn_at)
    }
    titles = ["image", "x_t", "denoised", *(f"v{i}" for i in range(1, 6)), "random"]
    titles += ["-v1", "+v1", "-v2", "+v2", "-random", "+random"]
    draw_rows(rows, titles, args.output.with_suffix(".png"))


def row(network: ScoreNetwork, x_0: Tensor, t: int, noise: Tensor, args: argparse.Namespace) -> list[Tensor]:
    """The pictures of one image (C, H, W): itself, x_t, denoised, the directions, and denoised x_t moved along them."""
    x_t = diffuse(x_0[None], torch.tensor([t], device=x_0.device), noise[None], network.schedule)
    _, directions = find_directions(network, x_t[0], t, args)
    random = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(args.seed)).to(x_0.device)
    unit = torch.stack([directions[0], directions[1], random / random.norm()])
    moves = args.move * (x_t - network.schedule.signal_scale[t] * x_0).norm() * unit
    every = torch.cat([x_t, x_t + torch.stack([-moves, moves], dim=1).flatten(0, 1)])
    with torch.no_grad():
        denoised = to_unit(network.pred_x0(every, torch.full((len(every),), t, device=every.device)))
    shown = stretch(torch.cat([directions, random[None]]))
    return [to_unit(x_0), to_unit(x_t[0]).clamp(0, 1), denoised[0], *shown, *denoised[1:]]


if __name__ == "__main__":
    main()
