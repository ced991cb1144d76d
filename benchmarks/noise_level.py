"""How well estimate_sigma finds the noise of images, beside scikit-image's estimate_sigma and the Haar median.

    pip install scikit-image PyWavelets
    python -m benchmarks.noise_level                    # CIFAR-10 from the Hub
    python -m benchmarks.noise_level --data data/cifar10 data/bsds500

Noise of a known size is added to clean test images, and the result is clipped to [0, 1] as a picture is. The truth is
the root mean square of what the image then differs by: below sigma if much is clipped.

Quantiles of estimate_sigma over clean training images come first. The gate of Purify is the one of 0.99.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from diffaug_transforms.transforms import estimate_sigma

from .harness.data import HubImages
from .harness.options import positive_int, script_parser
from .harness.records import RESULTS, Record, summary, write_results

SIGMAS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
#: The other kinds of noise have the mean square of a Gaussian of these.
OTHER_SIGMAS = (0.05, 0.1, 0.2)
#: The share of values that sparse noise changes.
SPARSE = 0.05
#: Of estimate_sigma over clean training images.
QUANTILES = (0.5, 0.95, 0.99, 0.999)


def sparse(image: Tensor) -> Tensor:
    """Few values of an image are hit, hard."""
    return (torch.rand(image.shape) < SPARSE) * torch.randn(image.shape) / SPARSE**0.5


def signal_dependent(image: Tensor) -> Tensor:
    """Noise whose size is proportional to the pixel."""
    return torch.randn(image.shape) * image / image.square().mean().sqrt().clamp(min=1e-3)


#: From an image to noise whose mean square is 1 on average.
NOISES: dict[str, Callable[[Tensor], Tensor]] = {
    "Gaussian": lambda image: torch.randn(image.shape),
    "5 % of values": sparse,
    "proportional to the pixel": signal_dependent,
}


def haar_median(image: Tensor) -> Tensor:
    """Donoho's estimate: the median of the absolute Haar differences, without windows."""
    differences = image[..., :-1, :-1] - image[..., 1:, :-1] - image[..., :-1, 1:] + image[..., 1:, 1:]
    return (differences / 2).abs().median() / 0.6745


def scikit_image(image: Tensor) -> float:
    from skimage.restoration import estimate_sigma

    return estimate_sigma(image.permute(1, 2, 0).numpy(), channel_axis=-1, average_sigmas=True)


METHODS: dict[str, Callable[[Tensor], Tensor | float]] = {
    "estimate_sigma": estimate_sigma,
    "Haar median": haar_median,
    "scikit-image": scikit_image,
}


def parse_arguments() -> argparse.Namespace:
    parser = script_parser(__doc__, data=["uoft-cs/cifar10"], images=500, seed=0, output=RESULTS / "noise_level.json")
    parser.add_argument("--gate-images", type=positive_int, default=10_000, help="the first N training images")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    records = [record for data in args.data for record in quantiles(data, args.gate_images)]
    records += [record for data in args.data for record in records_of(data, args)]
    write_results("noise_level", records, args.output)


def quantiles(data: str, number: int) -> Iterator[Record]:
    """Of estimate_sigma over the first images of a data set's training split."""
    train = HubImages(data, split="train")
    images = tqdm(range(min(number, len(train))), desc=f"{Path(data).name}, train")
    sigmas = torch.cat([estimate_sigma(train[i][0]) for i in images])
    same = {"benchmark": "noise_level", "dataset": Path(data).name, "split": "train", "method": "estimate_sigma"}
    for q in QUANTILES:
        value = round(sigmas.quantile(q).item(), 5)
        yield {**same, "metric": "estimated_sigma_quantile", "quantile": q, "value": value, "n": len(sigmas)}


def records_of(data: str, args: argparse.Namespace) -> Iterator[Record]:
    """Of one data set."""
    images = HubImages(data)
    torch.manual_seed(args.seed)
    found: dict[tuple[str, float, str], list[tuple[float, float]]] = defaultdict(list)
    for i in tqdm(range(min(args.images, len(images))), desc=Path(data).name):
        clean = images[i][0].float() / 255
        for noise, draw in NOISES.items():
            for sigma in SIGMAS if noise == "Gaussian" else OTHER_SIGMAS:
                noisy = (clean + sigma * draw(clean)).clamp(0, 1)
                truth = (noisy - clean).square().mean().sqrt().item()
                for method, estimate in METHODS.items():
                    found[noise, sigma, method].append((float(estimate(noisy)), truth))
    for (noise, sigma, method), pairs in found.items():
        estimates, truths = torch.tensor(pairs, dtype=torch.float64).unbind(1)
        common = {"benchmark": "noise_level", "dataset": Path(data).name, "noise": noise, "sigma": sigma}
        common |= {"method": method, "seed": args.seed, "noise_rms": round(truths.mean().item(), 5)}
        yield {**common, "metric": "estimated_sigma", **summary(estimates)}
        root = (estimates - truths).square().mean().sqrt().item()
        yield {**common, "metric": "root_mean_square_error", "value": round(root, 5), "n": len(pairs)}


if __name__ == "__main__":
    main()
