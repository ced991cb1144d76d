"""Entropy of a classifier's predictions on one-step denoised test images, over t: the paper's figure.

    python benchmarks/entropy_over_time.py --classifier runs/cifar10_recipes/{baseline,diffaug}-{0,1,2}

As t grows less of the image is left, and a classifier that knows what it sees should come near the uniform
distribution's entropy, log K. All classifiers see the same views. Writes the records and a plot beside them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch
from pivots import select
from records import RESULTS, Record, write_results
from shift_inputs import open_classifiers, open_set
from tqdm.auto import tqdm

from diffaug_transforms import DiffAug, load_score_network
from diffaug_transforms.transforms.lazy import fast_dtype
from diffaug_transforms.transforms.self_ensemble import entropy


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classifier", nargs="+", required=True, help="as covariate_shift.py's")
    parser.add_argument("--dataset", choices=("cifar10", "imagenet"), default="cifar10")
    parser.add_argument("--data", default="uoft-cs/cifar10", help="the test set: Hub id or folder")
    parser.add_argument("--network", default="cifar10", help="as load_score_network takes it")
    parser.add_argument("--images", type=int, default=500, help="the first N of a random order")
    parser.add_argument("--every", type=int, default=25, help="timesteps 0, EVERY, 2 EVERY... and the last")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/entropy_over_time.json")
    return parser.parse_args()


@torch.inference_mode()
def run(args: argparse.Namespace) -> list[Record]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifiers, fields = open_classifiers(args.classifier, device)
    network = load_score_network(args.network).to(device, fast_dtype(device))
    data = open_set(args.dataset, args.data, "clean", 0).subset(args.images)
    images = torch.stack([data[i] for i in range(len(data))]).float() / 255
    common = {"benchmark": "entropy_over_time", "dataset": args.dataset, "network": args.network, "mode": "view"}
    last = network.num_timesteps - 1
    records: list[Record] = []
    for t in tqdm(sorted({*range(0, last, args.every), last}), unit="timestep"):
        generator = torch.Generator().manual_seed(hash((args.seed, t)) % 2**63)
        augment = DiffAug(network, timesteps=t, max_batch=args.batch_size, generator=generator)
        views = augment(images.to(device))
        for spec, classifier in classifiers.items():
            logits = torch.cat([classifier(part).float() for part in views.split(args.batch_size)])
            right = data.correct(logits, range(len(data))).float().mean()
            here = {**common, **fields[spec], "timestep": t, "n": len(data), "classes": logits.shape[1]}
            values = entropy(logits.log_softmax(1))
            error = round(float(values.std()) / len(values) ** 0.5, 4)
            records.append(
                {**here, "metric": "entropy", "value": round(float(values.mean()), 4), "standard_error": error}
            )
            records.append({**here, "metric": "accuracy", "value": round(100 * float(right), 3)})
    return records


def plot(records: Sequence[Record], path: Path) -> None:
    """Mean over seeds with the seeds' range, recipes with DiffAug full and without dashed; the uniform limit dotted."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    steps = sorted({r["timestep"] for r in records})
    classes = records[0]["classes"]
    limits = {
        "entropy": (float(torch.tensor(classes).log()), f"uniform, log {classes}"),
        "accuracy": (100 / classes, "chance"),
    }
    for panel, (metric, (limit, name)) in zip(panels, limits.items()):
        for i, recipe in enumerate(dict.fromkeys(r["recipe"] for r in records)):
            by_step = [[r["value"] for r in select(records, recipe=recipe, metric=metric, timestep=t)] for t in steps]
            style = "-" if "diffaug" in recipe else "--"
            panel.plot(steps, [mean(values) for values in by_step], style, color=f"C{i}", label=recipe)
            low, high = [min(values) for values in by_step], [max(values) for values in by_step]
            panel.fill_between(steps, low, high, color=f"C{i}", alpha=0.15, linewidth=0)
        panel.axhline(limit, color="k", linestyle=":", label=name)
        panel.set(xlabel="t", ylabel="entropy (nats)" if metric == "entropy" else "accuracy (%)", ylim=(0, None))
        panel.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    args = parse_arguments()
    records = run(args)
    path = write_results(__file__, records, args.output or RESULTS / "entropy_over_time.json")
    plot(records, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
