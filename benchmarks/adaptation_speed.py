"""Seconds an image under Default, DE, anytime DE and DDA, interleaved in one run, and the network calls behind them.

python benchmarks/adaptation_speed.py --classifier runs/cifar10_recipes/diffaug-0 --data uoft-cs/cifar10
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median, stdev

import torch
from records import Record, write_results
from shift_inputs import open_classifier, open_set
from torch import Tensor, nn

from diffaug_transforms import DiffAugEnsemble, ScoreNetwork, load_score_network
from diffaug_transforms.robustness import CORRUPTIONS, DDA
from diffaug_transforms.robustness.adaptation import START_TIMESTEP
from diffaug_transforms.transforms import AnytimeEnsemble, SelfEnsemble
from diffaug_transforms.transforms.lazy import fast_dtype


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classifier", required=True, help="as covariate_shift.py's")
    parser.add_argument("--dataset", default="cifar10-c")
    parser.add_argument("--data", default="uoft-cs/cifar10")
    parser.add_argument("--network", default="cifar10")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def make_modes(classifier: nn.Module, name: str, device: torch.device) -> dict[str, tuple[nn.Module, ScoreNetwork]]:
    """Every mode, each with a network of its own, so that each has the memory layout that it is fastest with."""
    modes: dict[str, tuple[nn.Module, ScoreNetwork]] = {}

    def add(mode: str, make: Callable[[ScoreNetwork], nn.Module]) -> None:
        network = load_score_network(name).to(device, fast_dtype(device))
        modes[mode] = make(network), network

    add("default", lambda network: classifier)
    add("de", lambda network: DiffAugEnsemble(classifier, network))
    add("de, anytime exact", lambda network: AnytimeEnsemble(DiffAugEnsemble(classifier, network)))
    add("de, anytime 0.95", lambda network: AnytimeEnsemble(DiffAugEnsemble(classifier, network), confidence=0.95))
    add("dda-se, matched start", lambda network: SelfEnsemble(classifier, DDA(network)))
    add("dda-se", lambda network: SelfEnsemble(classifier, DDA(network, start_timestep=START_TIMESTEP)))
    return modes


def count_calls(network: ScoreNetwork, run: Callable[[], Tensor]) -> tuple[int, int]:
    """How many images the network sees forwards, and how many backwards, while ``run`` runs."""
    forward = backward = 0

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal forward, backward
        forward += len(inputs[0])
        backward += len(inputs[0]) * inputs[0].requires_grad

    handle = network.unet.register_forward_pre_hook(before)
    run()
    handle.remove()
    return forward, backward


def seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    args = parse_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifier, fields = open_classifier(args.classifier)
    # One image after the other of all corruptions: the anytime ensembles' calls depend on the images.
    sets = [open_set(args.dataset, args.data, corruption, 5).subset(args.batch_size) for corruption in CORRUPTIONS]
    batch = torch.stack([sets[i % len(sets)][i] for i in range(args.batch_size)]).to(device) / 255
    modes = make_modes(classifier.to(device), args.network, device)
    times: dict[str, list[float]] = {name: [] for name in modes}
    calls: dict[str, tuple[int, int]] = {}
    with torch.inference_mode():
        for name, (model, network) in modes.items():
            calls[name] = count_calls(network, partial(model, batch))  # and warms up
        for _ in range(args.repeats):
            for name, (model, _) in modes.items():
                times[name].append(seconds(partial(model, batch), device) / len(batch))
    common = {"benchmark": "adaptation_speed", "dataset": args.dataset, "network": args.network, **fields}
    common |= {"n": len(batch), "repeats": args.repeats, "batch_size": len(batch)}
    records: list[Record] = []
    for name, spent in times.items():
        ratios = [value / reference for value, reference in zip(spent, times["de"])]
        error = stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else None
        values = {
            "seconds_per_image": median(spent),
            "ratio_to_de": median(ratios),
            "network_calls": calls[name][0] / len(batch),
            "backward_calls": calls[name][1] / len(batch),
        }
        for metric, value in values.items():
            extra = {"standard_error": error} if metric == "ratio_to_de" else {}
            records.append({**common, "method": name, "metric": metric, "value": round(value, 6), **extra})
    write_results(__file__, records)


if __name__ == "__main__":
    main()
