"""Certified accuracy by denoised smoothing: the paper's table, for classifiers with and without DiffAug.

    python benchmarks/certify.py --classifier runs/cifar10_recipes/{baseline,diffaug}-{0,1,2} --images 100
    python benchmarks/certify.py --classifier runs/cifar10_recipes/{baseline,diffaug}-{0,1,2} --images 200   # adds 100

Every classifier votes on the same denoised draws; each image's votes are kept under --work, so a stopped run resumes.
Writes every certificate as a record, and beside the JSON the curve of certified accuracy over the radius.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from certify_plot import plot_curves
from records import RESULTS, Record, write_results
from shift_inputs import open_classifiers, open_set
from torch import Tensor, nn
from tqdm.auto import tqdm

from diffaug_transforms import ScoreNetwork, load_score_network
from diffaug_transforms.robustness import DenoisedSmoothing
from diffaug_transforms.robustness.certificates import certify_votes
from diffaug_transforms.transforms.lazy import fast_dtype

#: Classifier's name to votes of the choosing draws and of the bounding draws, each (K,).
Votes = dict[str, tuple[list[int], list[int]]]
Classifiers = dict[str, nn.Module]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classifier", nargs="+", required=True, help="as covariate_shift.py's")
    parser.add_argument("--dataset", choices=("cifar10", "imagenet"), default="cifar10")
    parser.add_argument("--data", default="uoft-cs/cifar10", help="the test set: Hub id or folder")
    parser.add_argument("--network", default="cifar10", help="as load_score_network takes it")
    parser.add_argument("--sigmas", nargs="+", type=float, default=[0.25, 0.5, 1.0], help="on [0, 1] pixels")
    parser.add_argument("--images", type=int, default=100, help="the first N of a random order")
    parser.add_argument("--n0", type=int, default=100, help="draws that choose the class")
    parser.add_argument("--n", type=int, default=10_000, help="draws that bound its probability")
    parser.add_argument("--failure-probability", type=float, default=0.001)
    parser.add_argument("--max-batch", type=int, default=100, help="largest batch of draws on the device")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--work", type=Path, default=Path("runs/certify"))
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/certify.json")
    return parser.parse_args()


@torch.inference_mode()
def count_votes(
    smoothed: DenoisedSmoothing, classifiers: Classifiers, image: Tensor, noise: Iterable[Tensor]
) -> dict[str, list[int]]:
    """Each classifier's votes (K,) over draws of one image, float32 (C, H, W). ``noise`` is ``draw_noise``'s."""
    votes: dict[str, Tensor] = {}
    for part in noise:
        views = smoothed.denoise(image.expand(len(part), -1, -1, -1), part)
        for name, classifier in classifiers.items():
            logits = classifier(views)
            counts = torch.bincount(logits.argmax(1), minlength=logits.shape[1]).cpu()
            votes[name] = votes.get(name, torch.zeros_like(counts)) + counts
    return {name: counts.tolist() for name, counts in votes.items()}


def votes_on(
    image: Tensor, index: int, sigma: float, network: ScoreNetwork, classifiers: Classifiers, args: argparse.Namespace
) -> Votes:
    """The votes on one image, uint8 (C, H, W), from its file under --work if it is there.

    ``index``, the image's place in the full test set, seeds its draws, which all sigmas share.
    """
    path = args.work / args.dataset / f"sigma-{sigma:g}" / f"{index}.json"
    settings = {"network": args.network, "n0": args.n0, "n": args.n, "seed": args.seed, "classifiers": args.classifier}
    kept = json.loads(path.read_text()) if path.exists() else {}
    if kept.get("settings") != settings:
        generator = torch.Generator().manual_seed(hash((args.seed, index)) % 2**63)
        smoothed = DenoisedSmoothing(nn.Identity(), network, sigma, max_batch=args.max_batch, generator=generator)
        pixels = image.to(network.device).float() / 255
        first, second = (
            count_votes(smoothed, classifiers, pixels, smoothed.draw_noise(pixels, n)) for n in (args.n0, args.n)
        )
        kept = {"settings": settings, "votes": {name: (first[name], second[name]) for name in classifiers}}
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(kept) + "\n")
        unfinished.rename(path)
    votes: Votes = kept["votes"]
    return votes


def certificates(votes: Votes, sigma: float, label: int, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Each classifier's certificate at one image."""
    made = {}
    for name, (first, second) in votes.items():
        chosen = max(range(len(first)), key=first.__getitem__)
        prediction, radius = certify_votes(chosen, second[chosen], args.n, sigma, args.failure_probability)
        floored = math.floor(10_000 * radius) / 10_000  # a radius is never rounded up
        made[name] = {"prediction": prediction, "label": label, "value": floored}
    return made


def run(args: argparse.Namespace) -> list[Record]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifiers, fields = open_classifiers(args.classifier, device)
    network = load_score_network(args.network).to(device, fast_dtype(device))
    images = open_set(args.dataset, args.data, "clean", 0).subset(args.images)
    common = {"benchmark": "certify", "dataset": args.dataset, "network": args.network, "mode": "smoothed"}
    common |= {"metric": "certified_radius", "draws": args.n, "failure_probability": args.failure_probability}
    records: list[Record] = []
    # Image by image, so that a run that is stopped has all sigmas of those it has.
    for place, sigma in tqdm(list(product(range(len(images)), args.sigmas)), unit="certificate"):
        index = images.full_index(place)
        votes = votes_on(images[place], index, sigma, network, classifiers, args)
        for spec, certificate in certificates(votes, sigma, images.labels[place][0], args).items():
            records.append({**common, **fields[spec], "sigma": sigma, "image": index, **certificate})
    return records


def main() -> None:
    args = parse_arguments()
    records = run(args)
    path = write_results(__file__, records, args.output or RESULTS / "certify.json")
    plot_curves(records, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
