"""What an anytime ensemble saves and what weighting the views brings, on the views that covariate_shift.py kept.

    python benchmarks/covariate_shift.py --dataset cifar10-c --keep-probabilities ...
    python benchmarks/ensemble_rules.py --dataset cifar10-c

The anytime rule is replayed on the kept probabilities: it sees the same views in the same order, so its answers and
its number of network calls are those of AnytimeEnsemble on these draws.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from records import Record, write_results
from shift_inputs import open_classifier
from torch import Tensor
from tqdm.auto import tqdm

from diffaug_transforms import load_score_network
from diffaug_transforms.score.matching import ENSEMBLE_TIMESTEPS
from diffaug_transforms.transforms.anytime import settled
from diffaug_transforms.transforms.self_ensemble import entropy

#: (confidence, min_views) of the anytime ensembles; None: the exact bound alone.
ANYTIME = ((None, 2), (0.95, 2), (0.9, 2), (0.8, 2), (0.7, 2), (0.6, 2), (0.8, 1))
#: The weight of each view (V, N, 1), of its log-probabilities (V, N, K). Weights are made to sum to 1 per image.
WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda log_p: torch.ones_like(log_p[..., :1]),
    "exp(-entropy)": lambda log_p: (-entropy(log_p)).exp(),
    "exp(-3 entropy)": lambda log_p: (-3 * entropy(log_p)).exp(),
    "1 / entropy": lambda log_p: 1 / entropy(log_p).clamp(min=1e-3),
    "confidence": lambda log_p: log_p.amax(dim=-1, keepdim=True).exp(),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10-c", help="the name that covariate_shift.py gave it")
    parser.add_argument("--network", default="cifar10", help="whose timesteps the views have")
    parser.add_argument("--work", type=Path, default=Path("runs/covariate_shift"))
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/ensemble_rules.json")
    return parser.parse_args()


def kept_views(folder: Path) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """Every classifier and choice of timesteps: its name, the choice, log-probabilities (V, N, K), labels (N,)."""
    parts = [torch.load(path, weights_only=True) for path in sorted(folder.glob("views-*.pt"))]
    labels = torch.cat([part["labels"] for part in parts])
    for key in parts[0]:
        if key != "labels":
            classifier, timesteps = key.rsplit(" ", 1)
            yield classifier, timesteps, torch.cat([part[key] for part in parts], dim=1).float(), labels


def replay(
    log_p: Tensor, timesteps: tuple[int, ...], confidence: float | None, min_views: int
) -> tuple[Tensor, Tensor]:
    """What AnytimeEnsemble answers (N,), and after how many network calls (N,), given all views' (V, N, K)."""
    totals = log_p.exp().cumsum(dim=0)
    answers, calls = torch.full((2, totals.shape[1]), -1)
    made = 0
    for seen, (total, t) in enumerate(zip(totals, timesteps), start=1):
        made += t > 0
        done = settled(total, seen, len(totals) - seen, confidence, min_views) & (answers < 0)
        answers[done], calls[done] = total.argmax(dim=1)[done], made
    return answers, calls


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
        weights = weigh(log_p)
        answers = (log_p.exp() * weights / weights.sum(dim=0)).sum(dim=0).argmax(dim=1)
        add(f"weights, {name}", "accuracy", answers == labels)
    return records


def joined_views(folders: list[Path]) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    """(classifier, timesteps) to log-probabilities (V, N, K) and labels (N,) of all these parts' images."""
    parts: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] = {}
    for folder in folders:
        for classifier, timesteps, log_p, labels in kept_views(folder):
            parts.setdefault((classifier, timesteps), []).append((log_p, labels))
    return {
        key: (torch.cat([log_p for log_p, _ in pairs], dim=1), torch.cat([labels for _, labels in pairs]))
        for key, pairs in parts.items()
    }


def main() -> None:
    args = parse_arguments()
    steps = {"network": load_score_network(args.network).ensemble_timesteps, "paper": tuple(ENSEMBLE_TIMESTEPS)}
    folders = sorted({path.parent for path in (args.work / args.dataset).glob("*/views-*.pt")})
    parts = {"clean": [f for f in folders if f.name == "clean"], "all": [f for f in folders if f.name != "clean"]}
    records: list[Record] = []
    for corruption, members in parts.items():
        common = {"benchmark": "ensemble_rules", "dataset": args.dataset, "network": args.network, "mode": "de"}
        common |= {"corruption": corruption}
        for (classifier, timesteps), (log_p, labels) in tqdm(joined_views(members).items(), desc=corruption):
            _, fields = open_classifier(classifier)
            here = {**common, **fields, "timesteps": timesteps, "n": len(labels)}
            records += [{**here, **record} for record in judge(log_p, labels, steps[timesteps])]
    write_results(__file__, records, args.output)


if __name__ == "__main__":
    main()
