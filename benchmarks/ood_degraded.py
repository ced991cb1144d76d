"""Why DiffAug helps on some OOD sets and not on others: MSP on sets that are blurred, noisy or faint.

    python benchmarks/ood_degraded.py --data uoft-cs/cifar10 --photos data/imagenet-val --fashion runs/ood/fashion \\
        --classifier runs/cifar10_recipes/{baseline,diffaug}-?

The in-distribution images stay as they are. Sets are ood.py's; classifiers know all of CIFAR-10's classes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from ood import BATCH
from ood_inputs import Images, load, read_fashion, read_hub, read_photos
from ood_tables import degraded_table
from records import Record, write_results
from shift_inputs import open_classifier
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from tqdm.auto import tqdm

from diffaug_transforms.robustness import OODDetector, auroc
from diffaug_transforms.score.sampling import draw_like


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="uoft-cs/cifar10", help="in distribution: Hub id or folder in its layout")
    parser.add_argument("--photos", required=True, help="as ood.py's")
    parser.add_argument("--fashion", type=Path, required=True, help="as ood.py's")
    parser.add_argument("--classifier", nargs="+", required=True, help="as covariate_shift.py takes them")
    parser.add_argument("--images", type=int, default=2000, help="of each set, at most")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/ood_degraded.json")
    return parser.parse_args()


def degradations(seed: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """What is done to images (N, 3, 32, 32) in [0, 1]."""

    def noisy(images: Tensor) -> Tensor:
        noise = next(draw_like(images, torch.Generator().manual_seed(seed)))
        return (images + 0.1 * noise).clamp(0, 1)

    return {
        "as it is": lambda images: images,
        "blur .5": lambda images: F.gaussian_blur(images, [7, 7], [0.5, 0.5]),
        "blur 1": lambda images: F.gaussian_blur(images, [7, 7], [1.0, 1.0]),
        "noise .1": noisy,
        "half contrast": lambda images: 0.25 + 0.5 * images,
        "inverted": lambda images: 1 - images,
    }


@torch.inference_mode()
def scores_of(detector: OODDetector, images: Tensor) -> Tensor:
    device = next(detector.classifier.parameters()).device
    return torch.cat([detector(part.to(device)).cpu() for part in images.split(BATCH)])


def run(args: argparse.Namespace) -> list[Record]:
    known, _ = read_hub("cifar10", args.data, 32, 32)
    inside = load(known, "id", args.images).pixels
    sets: list[Images] = [
        load(read_photos(args.photos, 32, 32), "near", args.images),
        load(read_fashion(args.fashion, 32), "far", args.images),
    ]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    records: list[Record] = []
    for spec in tqdm(args.classifier, desc="classifiers"):
        classifier, fields = open_classifier(spec)
        detector = OODDetector(classifier.to(device), method="msp")
        id_scores = scores_of(detector, inside)
        for images in sets:
            for name, degrade in degradations(args.seed).items():
                value = auroc(id_scores, scores_of(detector, degrade(images.pixels.float() / 255)))
                here = {"benchmark": "ood_degraded", **fields, "dataset": images.name, "degradation": name}
                here |= {"method": "msp", "metric": "auroc", "value": round(100 * value, 3)}
                records.append({**here, "n": len(images.pixels), "n_id": len(inside)})
    return records


def main() -> None:
    args = parse_arguments()
    records = run(args)
    write_results(__file__, records, args.output)
    print(degraded_table(records))


if __name__ == "__main__":
    main()
