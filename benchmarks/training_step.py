"""What DiffAug adds to a training step of examples/train_classifier.py, in time and memory.

    python benchmarks/training_step.py                                      # CIFAR-10's sizes, on this machine
    python benchmarks/training_step.py --model resnet50 --size 224 --network imagenet256 --batch-size 64

Every variant is a run of the script by itself, on random pictures; variants take turns, and ratios are of medians over
all rounds. A step counts from batch to batch: reading, per-sample views, DiffAug, classifier, optimiser.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch
from records import Record, write_results
from torchvision.transforms.v2 import functional as F

SCRIPT = Path(__file__).parent.parent / "examples" / "train_classifier.py"


def variants(args: argparse.Namespace, work: Path) -> dict[str, list[object]]:
    """Options of the script by variant."""
    cached = ["--recipe", "diffaug", "--diffaug-data", work / "images_diffaug"]
    return {
        "no DiffAug": ["--recipe", "baseline"],
        "prepared folder": cached,
        "in the loop": ["--recipe", "diffaug"],
        "in the loop, p = 0.5": ["--recipe", "diffaug", "--p", 0.5],
        "in the loop, float32": ["--recipe", "diffaug", "--mixed-precision", "no"],
        "in the loop, compiled": ["--recipe", "diffaug", "--compile"],
    }


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name in ("images/train", "images_diffaug"):
            write_pictures(work / name / "class0", args.batch_size, args.size)
        rounds: dict[str, list[Record]] = {name: [] for name in variants(args, work)}
        for turn in range(args.rounds):
            for name, options in variants(args, work).items():
                rounds[name].append(run(args, work, options))
                print(f"round {turn}: {name}: {rounds[name][-1]['seconds_per_step']:.3f} s a step", flush=True)
    write_results(__file__, records(args, rounds), args.output)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cifar_resnet-32")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--network", default="cifar10")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="of a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/training_step.json")
    return parser.parse_args()


def write_pictures(folder: Path, number: int, size: int) -> None:
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for i in range(number):
        pixels = torch.randint(256, (3, size, size), generator=generator, dtype=torch.uint8)
        F.to_pil_image(pixels).save(folder / f"{i:05d}.png")


def run(args: argparse.Namespace, work: Path, options: list[object]) -> Record:
    """The facts that one run of the script leaves, its median step and its peak memory among them."""
    command = [sys.executable, SCRIPT, "--data", work / "images", "--output", work / "run", "--model", args.model]
    command += ["--size", args.size, "--network", args.network, "--batch-size", args.batch_size, "--steps", args.steps]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([str(part) for part in [*command, *options]], check=True, env=environment)
    return json.loads((work / "run" / "classifier.json").read_text())


def records(args: argparse.Namespace, rounds: dict[str, list[Record]]) -> list[Record]:
    """Seconds and peak bytes of each variant, and both as multiples of those without DiffAug."""
    seconds = {name: median(r["seconds_per_step"] for r in runs) for name, runs in rounds.items()}
    peak = {name: median(r["peak_bytes"] for r in runs) for name, runs in rounds.items()}
    common = {"benchmark": "training_step", "model": args.model, "size": args.size, "network": args.network}
    common |= {"batch_size": args.batch_size, "n": args.rounds, "steps": args.steps, "seed": 0}
    made = []
    for name in rounds:
        values = {"seconds_per_step": seconds[name], "peak_bytes": peak[name]}
        values["time_ratio"] = seconds[name] / seconds["no DiffAug"]
        values["memory_ratio"] = peak[name] / peak["no DiffAug"]
        made += [{**common, "method": name, "metric": metric, "value": value} for metric, value in values.items()]
    return made


if __name__ == "__main__":
    main()
