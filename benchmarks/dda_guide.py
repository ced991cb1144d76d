"""DDA's guide at 32 pixels: how far clean training images are moved, by guidance scale and downscale.

    python benchmarks/dda_guide.py --data uoft-cs/cifar10

The reference's 6 and 4 are for 256 pixels: its step has the same length whatever the size, and its low-pass averages
over the same number of pixels. What moves a clean image least while it is sampled anew holds on to its content best;
no corrupted and no test image is looked at.
"""

from __future__ import annotations

import argparse
from itertools import product

import torch
from adapted_images import draw_noise
from datasets import load_dataset
from records import Record, write_results
from torchvision.transforms.v2 import functional as F
from tqdm.auto import tqdm

from diffaug_transforms.robustness import DDA


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="uoft-cs/cifar10")
    parser.add_argument("--network", default="cifar10")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--downscales", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--scales", type=float, nargs="+", default=[0.75, 1.5, 2, 3, 6])
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    rows = load_dataset(args.data, split=f"train[20000:{20000 + args.images}]")
    images = torch.stack([F.pil_to_tensor(image.convert("RGB")) for image in rows["img"]]) / 255
    records: list[Record] = []
    for downscale, scale in tqdm(list(product(args.downscales, args.scales))):
        dda = DDA(args.network, guidance_scale=scale, downscale=downscale)
        noise = draw_noise(range(args.images), len(dda.timesteps) - 1, images.shape[1:], seed=0)
        distances = (dda.adapt(images, noise) - images).square().mean((1, 2, 3)).sqrt()
        common = {"benchmark": "dda_guide", "dataset": "cifar10, training", "network": args.network, "mode": "dda"}
        common |= {"timestep": dda.timesteps[-1], "guidance_scale": scale, "downscale": downscale, "seed": 0}
        error = distances.std().item() / args.images**0.5
        value = {"metric": "rms_distance", "value": round(distances.mean().item(), 5), "n": args.images}
        records.append({**common, **value, "standard_error": round(error, 5)})
    write_results(__file__, records)


if __name__ == "__main__":
    main()
