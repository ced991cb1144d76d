"""Classifiers that have never seen some of CIFAR-10's classes: for each seed another 6 known and 4 unknown ones.

    python benchmarks/train_known_classes.py --work runs/cifar10_recipes

Open-set recognition judges such classifiers by how well they tell unknown classes from known ones, over random 6/4
splits (Neal et al., ECCV 2018). Takes the folders of real images and of their DiffAug views that train_cifar10.py
made in --work, and trains as it does; ood.py judges. What is finished is not repeated, a stopped run resumes.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from train_cifar10 import CLASSES, train

KNOWN = 6
RECIPES = ("baseline", "diffaug", "augmix", "augmix+diffaug")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/cifar10_recipes"), help="of train_cifar10.py")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="cifar_resnet-32")
    parser.add_argument("--start-steps", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=600, help="of every recipe, from the start on")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--parallel", type=int, default=1, help="seeds trained at a time, with equal CPU threads")
    parser.add_argument("--workers", type=int, default=0, help="DataLoader processes of each training")
    return parser.parse_args()


def known_classes(seed: int) -> list[str]:
    """The classes that the seed's classifiers are trained on, in their order."""
    order = torch.randperm(len(CLASSES), generator=torch.Generator().manual_seed(seed))
    return [CLASSES[k] for k in sorted(order[:KNOWN].tolist())]


def link_classes(work: Path, seed: int) -> Path:
    """A folder with links to the known classes' images and prepared views, for ``train``."""
    folder = work / f"known_classes-{seed}"
    for part in ("images/train", "images/test", "images_diffaug"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for name in known_classes(seed):
            link = folder / part / name
            if not link.is_symlink():
                link.symlink_to(os.path.relpath((work / part / name).resolve(), link.parent.resolve()))
    return folder


def train_seed(args: argparse.Namespace, seed: int) -> None:
    folder = link_classes(args.work, seed)
    here = argparse.Namespace(**{**vars(args), "work": folder, "in_loop": False})
    for name in ("start", *RECIPES):
        train(here, name, seed)


def main() -> None:
    args = parse_arguments()
    with ThreadPoolExecutor(args.parallel) as pool:
        list(pool.map(lambda seed: train_seed(args, seed), range(args.seeds)))


if __name__ == "__main__":
    main()
