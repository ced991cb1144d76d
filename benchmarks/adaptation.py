"""What adaptation at test time costs, and which guide DDA needs at 32 pixels.

    python -m benchmarks.adaptation speed --classifier runs/cifar10_recipes/diffaug-0
    python -m benchmarks.adaptation guide

speed: seconds per image under Default, DE, anytime DE and DDA, interleaved in one run, and their network calls.

guide: how far DDA moves clean training images, over guidance scale and downscale. The reference's 6 and 4 are for 256
pixels: its step has the same length at any size, and its low-pass averages over the same number of pixels. The setting
that moves a clean image least while it is sampled anew keeps its content best. No corrupted or test image is looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import torch
from torch import nn
from tqdm.auto import tqdm

from diffaug_transforms import DiffAugEnsemble
from diffaug_transforms.robustness import CORRUPTIONS, DDA
from diffaug_transforms.robustness.adaptation import START_TIMESTEP
from diffaug_transforms.robustness.datasets import random_subset
from diffaug_transforms.robustness.evaluation.batches import draw_noise
from diffaug_transforms.robustness.evaluation.sets import HubImages
from diffaug_transforms.score import Denoiser
from diffaug_transforms.transforms import AnytimeEnsemble, SelfEnsemble

from .harness.classifiers import open_classifier
from .harness.data import open_set, read_images
from .harness.options import default_device, nonnegative_float, positive_int, script_parser
from .harness.records import RESULTS, Record, summary, write_results
from .harness.timing import Methods, count_calls, ratio, time_interleaved

#: The first training image of guide.
FIRST = 20_000


def parse_arguments() -> argparse.Namespace:
    parser = script_parser(__doc__, data="uoft-cs/cifar10", network="cifar10", rounds=5)
    parser.add_argument("what", choices=("speed", "guide"))
    parser.add_argument("--classifier", default="cifar10-diffaug", help="of speed: see benchmarks.covariate_shift")
    parser.add_argument("--dataset", default="cifar10-c", help="of speed")
    parser.add_argument("--images", type=positive_int, help="default: 30 for speed, 60 for guide")
    parser.add_argument("--downscales", type=positive_int, nargs="+", default=[2, 4])
    parser.add_argument("--scales", type=nonnegative_float, nargs="+", default=[0.75, 1.5, 2, 3, 6])
    parser.add_argument("--output", type=Path, help="default: adaptation_speed.json or dda_guide.json in results/")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    make, name = {"speed": (speed, "adaptation_speed"), "guide": (guide, "dda_guide")}[args.what]
    write_results("adaptation", make(args), args.output or RESULTS / f"{name}.json")


def speed(args: argparse.Namespace) -> list[Record]:
    device, number = default_device(), args.images or 30
    classifier, fields = open_classifier(args.classifier)
    # One image after the other of all corruptions, because the anytime ensembles' calls depend on the images.
    sets = [random_subset(open_set(args.dataset, args.data, corruption, 5), number) for corruption in CORRUPTIONS]
    batch = torch.stack([sets[i % len(sets)][i][0] for i in range(number)]).to(device) / 255
    modes = make_modes(classifier.to(device), Denoiser(args.network), Denoiser(args.network, differentiable=True))
    methods: Methods = {name: partial(model, batch) for name, (model, _) in modes.items()}
    with torch.inference_mode():
        calls = {name: count_calls(modes[name][1].ready(device).unet, run) for name, run in methods.items()}
        times = time_interleaved(methods, args.rounds, device)
    common = {"benchmark": "adaptation_speed", "dataset": args.dataset, "network": args.network, **fields}
    common |= {"n": number, "repeats": args.rounds, "batch_size": number}
    records: list[Record] = []
    for name, spent in times.items():
        value, error = ratio(spent, times["de"])
        values = {"seconds_per_image": median(spent) / number, "ratio_to_de": value}
        values |= {"network_calls": calls[name][0] / number, "backward_calls": calls[name][1] / number}
        for metric, value in values.items():
            extra = {"standard_error": error} if metric == "ratio_to_de" else {}
            records.append({**common, "method": name, "metric": metric, "value": round(value, 6), **extra})
    return records


def make_modes(
    classifier: nn.Module, denoiser: Denoiser, differentiable: Denoiser
) -> dict[str, tuple[Callable[..., object], Denoiser]]:
    """Every mode, and the denoiser whose calls it makes."""
    ensemble = DiffAugEnsemble(classifier, denoiser)
    paper = DDA(differentiable, start_timestep=START_TIMESTEP)
    return {
        "default": (classifier, denoiser),
        "de": (ensemble, denoiser),
        "de, anytime exact": (AnytimeEnsemble(ensemble), denoiser),
        "de, anytime 0.95": (AnytimeEnsemble(ensemble, confidence=0.95), denoiser),
        "dda-se, matched start": (SelfEnsemble(classifier, DDA(differentiable)), differentiable),
        "dda-se": (SelfEnsemble(classifier, paper), differentiable),
    }


def guide(args: argparse.Namespace) -> list[Record]:
    number = args.images or 60
    images, _ = read_images(HubImages(args.data, "train"), range(FIRST, FIRST + number))
    denoiser = Denoiser(args.network, differentiable=True)
    records: list[Record] = []
    for downscale, scale in tqdm(list(product(args.downscales, args.scales))):
        dda = DDA(denoiser, guidance_scale=scale, downscale=downscale)
        noise = draw_noise(range(number), len(dda.timesteps) - 1, images.shape[1:], seed=0).to(images.device)
        distances = (dda.adapt(images, noise) - images).square().mean((1, 2, 3)).sqrt()
        common = {"benchmark": "dda_guide", "dataset": "cifar10, training", "network": args.network, "mode": "dda"}
        common |= {"timestep": dda.timesteps[-1], "guidance_scale": scale, "downscale": downscale, "seed": 0}
        records.append({**common, "metric": "rms_distance", **summary(distances)})
    return records


if __name__ == "__main__":
    main()
