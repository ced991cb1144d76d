"""What an anytime ensemble saves and what weighting the views brings, on the views that covariate_shift kept.

    python -m benchmarks.covariate_shift --dataset cifar10-c --keep-probabilities ...
    python -m benchmarks.ensemble_rules --dataset cifar10-c

The anytime rule is replayed on the kept probabilities: it sees the same views in the same order, so its answers and its
number of network calls are those of AnytimeEnsemble for these draws.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from diffaug_transforms import load_score_network
from diffaug_transforms.robustness.evaluation.answers import entropy
from diffaug_transforms.robustness.evaluation.modes import stop_early
from diffaug_transforms.robustness.evaluation.records import read_kept
from diffaug_transforms.score.schedule import ENSEMBLE_TIMESTEPS

from .harness.classifiers import open_classifier
from .harness.options import script_parser
from .harness.records import RESULTS, Record, write_results

#: (confidence, min_views) of the anytime ensembles; None: the exact bound alone.
ANYTIME = ((None, 2), (0.95, 2), (0.9, 2), (0.8, 2), (0.7, 2), (0.6, 2), (0.8, 1))
#: The weight (V, N) of each view, from log-probabilities (V, N, K). Weights are made to sum to 1 per image.
WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda log_p: torch.ones(log_p.shape[:-1]),
    "exp(-entropy)": lambda log_p: (-entropy(log_p)).exp(),
    "exp(-3 entropy)": lambda log_p: (-3 * entropy(log_p)).exp(),
    "1 / entropy": lambda log_p: 1 / entropy(log_p).clamp(min=1e-3),
    "confidence": lambda log_p: log_p.amax(dim=-1).exp(),
}
#: (classifier, timesteps) to log-probabilities (V, N, K) and labels (N,).
Kept = dict[tuple[str, str], tuple[Tensor, Tensor]]


def parse_arguments() -> argparse.Namespace:
    work, output = Path("runs/covariate_shift"), RESULTS / "ensemble_rules.json"
    parser = script_parser(__doc__, network="cifar10", work=work, output=output)
    parser.add_argument("--dataset", default="cifar10-c", help="the name that covariate_shift gave it")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    steps = {"network": load_score_network(args.network).ensemble_timesteps, "paper": tuple(ENSEMBLE_TIMESTEPS)}
    folders = finished_parts(args.work / args.dataset)
    parts = {"clean": [f for f in folders if f.name == "clean"], "all": [f for f in folders if f.name != "clean"]}
    common = {"benchmark": "ensemble_rules", "dataset": args.dataset, "network": args.network, "mode": "de"}
    records: list[Record] = []
    for corruption, members in parts.items():
        for (classifier, timesteps), (log_p, labels) in tqdm(kept_views(members).items(), desc=corruption):
            _, fields = open_classifier(classifier)
            here = {**common, "corruption": corruption, **fields, "timesteps": timesteps, "n": len(labels)}
            records += [{**here, **record} for record in judge(log_p, labels, steps[timesteps])]
    write_results("ensemble_rules", records, args.output)


def finished_parts(work: Path) -> list[Path]:
    """The folders of the parts that covariate_shift has finished. ValueError if they are not of one run's options."""
    parts = {path.parent: read_kept(path) for path in sorted(work.glob("*/records.pt"))}
    finished = {folder: found["settings"] for folder, found in parts.items() if "result" in found}
    options: dict[str, str] = {}
    for folder, settings in finished.items():
        same_for_all = {**settings, "settings": {**settings["settings"], "images": ""}}
        options.setdefault(repr(same_for_all), folder.name)
    if len(options) > 1:
        names = " and ".join(list(options.values())[:2])
        raise ValueError(f"{work} must hold parts of one run of covariate_shift. Got other options for {names}")
    return list(finished)


def kept_views(folders: Sequence[Path]) -> Kept:
    """The kept probabilities of all images in these parts."""
    found: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] = {}
    for path in (path for folder in folders for path in sorted(folder.glob("views-*.pt"))):
        part = torch.load(path, weights_only=True)
        labels = part.pop("labels")
        for key, log_p in part.items():
            classifier, timesteps = key.rsplit(" ", 1)
            found.setdefault((classifier, timesteps), []).append((log_p.float(), labels))
    return {
        key: (torch.cat([log_p for log_p, _ in pairs], dim=1), torch.cat([labels for _, labels in pairs]))
        for key, pairs in found.items()
    }


def judge(log_p: Tensor, labels: Tensor, timesteps: tuple[int, ...]) -> list[Record]:
    """Accuracy under every rule; for anytime ones also network calls and the share of the full ensemble's answers."""
    records: list[Record] = []

    def add(method: str, metric: str, values: Tensor, scale: float = 100) -> None:
        records.append({"method": method, "metric": metric, "value": round(scale * values.float().mean().item(), 4)})

    full = log_p.exp().mean(dim=0).argmax(dim=1)
    for confidence, min_views in ANYTIME:
        answers, calls = replay(log_p, timesteps, confidence, min_views)
        method = "anytime, exact" if confidence is None else f"anytime, {confidence}, from view {min_views} on"
        add(method, "accuracy", answers == labels)
        add(method, "same_answers", answers == full)
        add(method, "network_calls", calls, scale=1)
    for name, weigh in WEIGHTS.items():
        weights = weigh(log_p)[..., None]
        answers = (log_p.exp() * weights / weights.sum(dim=0)).sum(dim=0).argmax(dim=1)
        add(f"weights, {name}", "accuracy", answers == labels)
    return records


def replay(
    log_p: Tensor, timesteps: tuple[int, ...], confidence: float | None, min_views: int
) -> tuple[Tensor, Tensor]:
    """AnytimeEnsemble's answers (N,) and network calls (N,), from the log-probabilities of all views (V, N, K)."""
    log_mean, calls = stop_early(log_p, timesteps, confidence, min_views)
    return log_mean.argmax(dim=1), calls


if __name__ == "__main__":
    main()
