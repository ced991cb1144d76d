"""The paper's covariate-shift tables: classifiers under Default, DDA, DDA-SE and DE on corrupted or shifted images.

    python benchmarks/covariate_shift.py --dataset cifar10-c --data uoft-cs/cifar10 --limit 200 \\
        --classifier runs/cifar10_recipes/baseline-0 --classifier runs/cifar10_recipes/diffaug-0 \\
        --timesteps network paper
    accelerate launch benchmarks/covariate_shift.py --dataset imagenet-c --data data/imagenet-c --network imagenet256 \\
        --classifier resnet50 --classifier timm/deit3_base_patch16_224 --classifier resnet50@diffaug.pth

All classifiers see the same views of the same images, whatever the batch size and the number of processes. Finished
(corruption, severity) pairs and DDA's images are kept under --work: the same command resumes. Writes the records as
JSON, the table as Markdown beside it, and a plot of entropy and accuracy over t.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from records import RESULTS, Record, write_results
from shift_inputs import SETS, device_batches, holds_corruptions, open_classifiers, open_set
from shift_methods import Method, log_probabilities, make_methods, mode_answers
from shift_plot import plot_over_time
from shift_tables import shift_table
from torch import Tensor, nn
from tqdm.auto import tqdm

from diffaug_transforms.robustness import CORRUPTIONS, ShiftSet
from diffaug_transforms.transforms.self_ensemble import entropy

MODES = ("default", "de", "dda", "dda-se")
#: Arguments that change no part's records.
FREE = ("corruptions", "severities", "work", "output", "mce_baseline", "batch_size")
#: A classifier's name, and the fields of one measurement: mode, timesteps, timestep.
Key = tuple[str, str, str, int]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=SETS, required=True)
    parser.add_argument("--data", required=True, help="published files, or the clean set (folder or Hub id)")
    parser.add_argument("--classifier", action="append", required=True, help="folder, NAME, timm/NAME or NAME@FILE")
    parser.add_argument("--network", default="cifar10", help="as load_score_network takes it")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--timesteps", nargs="+", choices=("network", "paper"), default=["network"])
    parser.add_argument("--dda-scale", type=float, default=6.0, help="of DDA with the network's timesteps")
    parser.add_argument("--dda-downscale", type=int, default=4, help="likewise")
    parser.add_argument("--corruptions", nargs="+", choices=CORRUPTIONS, default=CORRUPTIONS)
    parser.add_argument("--name", help="of the data set in records; default: --dataset")
    parser.add_argument("--mce-baseline", default="alexnet", help="alexnet or a recipe's Default; needs 5 severities")
    parser.add_argument("--severities", nargs="+", type=int, choices=range(1, 6), default=[5])
    parser.add_argument("--limit", type=int, help="only the first N images of a random order")
    parser.add_argument("--batch-size", type=int, default=50, help="largest batch of images or views on a device")
    parser.add_argument("--checkpointing", action="store_true", help="DDA in less memory and more time")
    parser.add_argument("--seed", type=int, default=0, help="of corruptions and noise")
    parser.add_argument("--work", type=Path, default=Path("runs/covariate_shift"))
    parser.add_argument("--keep-probabilities", action="store_true", help="DE's, of every view, for ensemble_rules.py")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/covariate_shift_DATASET.json")
    return parser.parse_args()


def pairs(args: argparse.Namespace) -> list[tuple[str, int]]:
    """(corruption, severity) of all parts of the data set; the clean part of a corrupted set, if any, comes first."""
    corrupted = list(product(args.corruptions, args.severities)) if args.dataset.endswith("-c") else []
    return corrupted if holds_corruptions(Path(args.data)) else [("clean", 0), *corrupted]


def evaluate(
    images: ShiftSet,
    methods: list[Method],
    classifiers: dict[str, nn.Module],
    accelerator: Accelerator,
    args: argparse.Namespace,
    folder: Path,
) -> dict[Key, Counter[str]]:
    """Sums over this process's images: how many are right, their entropy, and how many they are."""
    sums: dict[Key, Counter[str]] = {}
    kept: dict[str, list[Tensor]] = {}

    def add(classifier: str, mode: str, timesteps: str, t: int, log_p: Tensor, places: list[int]) -> None:
        right = images.correct(log_p, places).sum().item()
        tally = {"right": right, "entropy": entropy(log_p).sum().item(), "n": len(places)}
        sums.setdefault((classifier, mode, timesteps, t), Counter()).update(tally)

    batches = device_batches(len(images), args.batch_size, accelerator.process_index, accelerator.num_processes)
    for places in tqdm(batches, desc=folder.name, leave=False, disable=not accelerator.is_main_process):
        batch = torch.stack([images[place] for place in places]).to(accelerator.device)
        indices = [images.full_index(place) for place in places]
        raw = {name: log_probabilities(c, batch[None] / 255)[0] for name, c in classifiers.items()}
        for name, log_p in raw.items():
            add(name, "default", "", 0, log_p, places)
        for method in methods:
            views = method.views(batch, indices, folder)
            for name, classifier in classifiers.items():
                log_p = log_probabilities(classifier, views)
                for mode, answer in mode_answers(raw[name], method, log_p).items():
                    if mode in args.modes:
                        add(name, mode, method.timesteps, -1, answer, places)
                if method.mode == "de":
                    for t, of_view in dict(zip(method.steps, log_p)).items():  # timesteps may repeat
                        add(name, "view", method.timesteps, t, of_view, places)
                    kept.setdefault(f"{name} {method.timesteps}", []).append(log_p.half().cpu())
    if args.keep_probabilities:
        labels = torch.tensor([images.labels[place][0] for part in batches for place in part])
        views_of = {name: torch.cat(parts, dim=1) for name, parts in kept.items()}
        torch.save({"labels": labels, **views_of}, folder / f"views-{accelerator.process_index}.pt")
    return sums


def to_records(sums: dict[Key, Counter[str]], common: Record, fields: dict[str, dict[str, Any]]) -> list[Record]:
    """Accuracy in percent of every mode, and of every view by its timestep; the views' entropy in nats."""
    records: list[Record] = []
    for (name, mode, timesteps, t), tally in sums.items():
        here = {**common, **fields[name], "mode": mode, "timesteps": timesteps, "n": tally["n"]}
        if mode in ("default", "view"):
            here["timestep"] = t
            records.append({**here, "metric": "entropy", "value": round(tally["entropy"] / tally["n"], 4)})
        records.append({**here, "metric": "accuracy", "value": round(100 * tally["right"] / tally["n"], 3)})
    return records


def run(args: argparse.Namespace, accelerator: Accelerator) -> list[Record]:
    classifiers, fields = open_classifiers(args.classifier, accelerator.device)
    methods = make_methods(args, accelerator.device)
    name = args.name or args.dataset
    settings = {key: str(value) for key, value in sorted(vars(args).items()) if key not in FREE}
    records: list[Record] = []
    for corruption, severity in tqdm(pairs(args), desc=args.dataset, disable=not accelerator.is_main_process):
        folder = args.work / name / (corruption if corruption == "clean" else f"{corruption}-{severity}")
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / "records.json"
        done = json.loads(part.read_text()) if part.exists() else {}
        accelerator.wait_for_everyone()
        if done.get("settings") != settings:
            images = open_set(args.dataset, args.data, corruption, severity)
            images = images.subset(args.limit) if args.limit else images
            mine = evaluate(images, methods, classifiers, accelerator, args, folder)
            sums: dict[Key, Counter[str]] = {}
            for key, tally in gather_object(list(mine.items())):
                sums.setdefault(key, Counter()).update(tally)
            common = {"benchmark": "covariate_shift", "dataset": name, "corruption": corruption}
            common |= {"severity": severity, "network": args.network}
            done = {"settings": settings, "records": to_records(sums, common, fields)}
            if accelerator.is_main_process:
                part.write_text(json.dumps(done, indent=1) + "\n")
        records += done["records"]
    return records


def main() -> None:
    args = parse_arguments()
    on_cpu = not torch.accelerator.is_available()  # said, so that torchrun's processes on CPUs find each other
    accelerator = Accelerator(cpu=on_cpu)
    records = run(args, accelerator)
    if accelerator.is_main_process:
        default = RESULTS / f"covariate_shift_{args.name or args.dataset}.json"
        path = write_results(__file__, records, args.output or default)
        table = shift_table(records, args.mce_baseline)
        path.with_suffix(".md").write_text(table)
        plot_over_time(records, path.with_suffix(".png"))
        print(table)
    # A process that leaves while others still talk to it may abort.
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
