"""The paper's training recipes on CIFAR-10 at one equal budget: clean and corrupted accuracy, Default and DE.

    python benchmarks/train_cifar10.py --parallel 2                   # on CPUs, with prepared DiffAug views
    python benchmarks/train_cifar10.py --in-loop --start-steps 40000 --steps 8000 --workers 12 --model cifar_resnet-128

For each seed one classifier is trained as usual (the start), and from it every recipe trains on for the same number
of steps and images, as the paper trains from published checkpoints. `+synth` adds synthetic images of the embedded
network to the training set. Everything is kept under --work: a stopped run resumes, finished parts are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from cifar10_sets import SETS, augment_images, ensemble_views, export_images, load_test_images, write_synthetic
from records import Record, write_results
from torch import Tensor, nn

from diffaug_transforms.classifiers import load_classifier
from diffaug_transforms.transforms.ensemble import log_mean_probabilities
from diffaug_transforms.transforms.recipes import RECIPES

SCRIPT = Path(__file__).parent.parent / "examples" / "train_classifier.py"
SEVERAL_SEEDS = ("baseline", "diffaug", "augmix", "augmix+diffaug", "baseline+synth", "diffaug+synth")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="uoft-cs/cifar10", help="Hub id or local folder of CIFAR-10 (img, label)")
    parser.add_argument("--work", type=Path, default=Path("runs/cifar10_recipes"), help="where everything is kept")
    parser.add_argument("--seeds", type=int, default=3, help="of the recipes of the main comparison; the others have 1")
    parser.add_argument("--model", default="cifar_resnet-32")
    parser.add_argument("--start-steps", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=600, help="of every recipe, from the start on")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--in-loop", action="store_true", help="DiffAug while training, not prepared beforehand")
    parser.add_argument("--copies", type=int, default=2, help="prepared DiffAug views of each training image")
    parser.add_argument("--synthetic", type=int, default=250, help="synthetic images of each class")
    parser.add_argument("--images", type=int, default=500, help="test images of each corruption")
    parser.add_argument("--clean-images", type=int, default=1000, help="clean test images of the DE column")
    parser.add_argument("--parallel", type=int, default=1, help="classifiers trained at a time, with equal CPU threads")
    parser.add_argument("--workers", type=int, default=0, help="DataLoader processes of each training")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/train_cifar10.json")
    return parser.parse_args()


def prepare(args: argparse.Namespace) -> None:
    """Folders of real and synthetic images, and of their DiffAug views."""
    for name, make in {
        "images": lambda folder: export_images(args.data, folder),
        "synth": lambda folder: write_synthetic(folder, CLASSES, args.synthetic, steps=20),
    }.items():
        if not (args.work / name / "done").exists():
            make(args.work / name)
            (args.work / name / "done").touch()
        if not args.in_loop:
            augment_images(args.work / name / "train", args.work / f"{name}_diffaug", args.copies)


def train(args: argparse.Namespace, name: str, seed: int) -> None:
    """Train one classifier by examples/train_classifier.py, unless it is there. "start" is the recipes' start."""
    output = args.work / f"{name}-{seed}"
    if (output / "classifier.json").exists():
        return
    recipe = "baseline" if name == "start" else name.removesuffix("+synth")
    options = ["--recipe", recipe, "--model", args.model, "--batch-size", args.batch_size, "--seed", seed]
    if name == "start":
        options += ["--steps", args.start_steps, "--lr", 0.2]
    else:
        options += ["--steps", args.steps, "--lr", 0.05, "--init", args.work / f"start-{seed}"]
    options += ["--data", args.work / "images", "--output", output, "--workers", args.workers]
    folders = [args.work / "images_diffaug"]
    if "+synth" in name:
        options += ["--extra-data", args.work / "synth"]
        folders += [args.work / "synth_diffaug"]
    if not args.in_loop:
        options += ["--diffaug-data", *folders]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // args.parallel))}
    with (args.work / f"{name}-{seed}.log").open("a") as log:
        subprocess.run([sys.executable, str(SCRIPT), *map(str, options)], check=True, stderr=log, env=environment)


def plan(args: argparse.Namespace) -> list[tuple[str, int]]:
    """(name, seed) of all runs: a first seed of everything before the further seeds of the main comparison."""
    names = [*RECIPES, "baseline+synth", "diffaug+synth"]
    return [(name, seed) for seed in range(args.seeds) for name in names if seed == 0 or name in SEVERAL_SEEDS]


@torch.inference_mode()
def logits_of(classifier: nn.Module, images: Tensor) -> Tensor:
    """float32 logits on the CPU of images in [0, 1], in batches."""
    device = next(classifier.parameters()).device
    return torch.cat([classifier(part.to(device).float()).float().cpu() for part in images.split(500)])


def evaluate(args: argparse.Namespace, name: str, seed: int) -> list[Record]:
    """Accuracy of one classifier, clean and under each corruption, by itself and as a DiffAugEnsemble."""
    folder = args.work / f"{name}-{seed}"
    classifier = load_classifier(folder).to("cuda" if torch.cuda.is_available() else "cpu")
    facts = json.loads((folder / "classifier.json").read_text())
    common = {"benchmark": "train_cifar10", "model": args.model, "recipe": name, "seed": seed, "metric": "accuracy"}
    common |= {"images_seen": facts["images"], "seconds": facts["seconds"], "steps": facts["arguments"]["steps"]}
    records: list[Record] = []

    def add(dataset: str, corruption: str, mode: str, logits: Tensor, labels: Tensor) -> None:
        value = 100 * (logits.argmax(dim=1) == labels).float().mean().item()
        here = {"dataset": dataset, "corruption": corruption, "severity": 5 if corruption != "clean" else 0}
        records.append({**common, **here, "mode": mode, "value": round(value, 3), "n": len(labels)})

    images, labels = load_test_images(args.data, 10000)
    add("cifar10", "clean", "default", logits_of(classifier, images / 255), labels)
    for corruption in SETS:
        number = args.clean_images if corruption == "clean" else args.images
        dataset = "cifar10" if corruption == "clean" else "cifar10-c"
        views = ensemble_views(corruption, args.data, number, args.work / "views")
        logits = torch.stack([logits_of(classifier, view) for view in views])
        if corruption != "clean":
            add(dataset, corruption, "default", logits[0], labels[:number])
        add(dataset, corruption, "de", log_mean_probabilities(logits), labels[:number])
    return records


def main() -> None:
    args = parse_arguments()
    prepare(args)
    with ThreadPoolExecutor(args.parallel) as pool:
        list(pool.map(lambda seed: train(args, "start", seed), range(args.seeds)))
        runs = plan(args)
        list(pool.map(lambda run: train(args, *run), runs))
    starts = [("start", seed) for seed in range(args.seeds)]
    write_results(__file__, [record for run in starts + runs for record in evaluate(args, *run)], args.output)


if __name__ == "__main__":
    main()
