"""Every documented command of train_classifier.py, and the learning rate, momentum and weight decay that it uses.

The commands are those of docs/recipes.md, docs/imagenet.md and the script's own help. The optimiser and the schedule
are built from a command's own arguments for a tiny model, and stepped from the first step to the last. Long runs are
shortened, all their numbers of steps alike. The values are the paper's official scripts' and DeiT III's published
commands.
"""

from __future__ import annotations

import argparse
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import train_classifier
from optimization import build_optimizer

from diffaug_transforms.classifiers import NormalizedClassifier, build_model

ROOT = Path(__file__).parents[2]
GPUS = 8
SHORTER = 100


def commands() -> dict[str, list[str]]:
    """The arguments of every documented command by the name of its output folder and its place."""
    pages = ("docs/recipes.md", "docs/imagenet.md")
    texts = {**{page: (ROOT / page).read_text() for page in pages}, "help": train_classifier.__doc__}
    found: dict[str, list[str]] = {}
    for place, text in texts.items():
        variables = dict(re.findall(r'^(\w+)="(.*)"$', text, re.M))
        for line in re.sub(r"\\\n\s*", "", text).splitlines():
            line = re.sub(r"\s#.*", "", line)
            for name, value in variables.items():
                line = line.replace(f"${name} ", f"{value} ")
            if re.match(r"\s*(python|accelerate launch) examples/train_classifier.py ", line):
                arguments = shlex.split(line.partition("train_classifier.py ")[2])
                name = arguments[arguments.index("--output") + 1].removeprefix("runs/")
                found[f"{name} in {place}, {len(found)}"] = arguments
    return found


COMMANDS = commands()
SGD = {"momentum": 0.9, "dampening": 0, "nesterov": False, "weight_decay": 1e-4}
NESTEROV = {**SGD, "nesterov": True}
ADAMW, LAMB = ({"kind": kind, "betas": (0.9, 0.999), "eps": 1e-8} for kind in ("AdamW", "Lamb"))
#: The optimiser's options in published checkpoints: AugMix's own script has plain momentum, DeepAugment's Nesterov's.
CHECKPOINTS = {
    "augmix.pth": {"lr": 1e-3, **SGD},
    "deepaugment.pth": {"lr": 3e-5, **NESTEROV},
    "deepaugment_and_augmix.pth": {"lr": 1e-6, **NESTEROV},
}


def thirds(share: float) -> float:
    return 0.1 * 0.1 ** int(share * 3)


def first_stage(share: float) -> float:
    warmup = 3125 / 500_000
    if share < warmup:
        return 1e-6 + (3e-3 - 1e-6) * share / warmup
    return 1e-5 + (3e-3 - 1e-5) * (1 + math.cos(math.pi * share)) / 2


def second_stage(share: float) -> float:
    return 1e-6 + (1e-5 - 1e-6) * min(1.0, share / 0.25)


#: By output folder: images a step, steps, the rate by the share of the steps done, the optimiser's other options.
PAPER: dict[str, tuple[int, int, Callable[[float], float], dict[str, object]]] = {
    "rn50": (256, 450_000, thirds, SGD),
    "rn50_prepared": (256, 450_000, thirds, SGD),
    "rn50_student": (256, 450_000, thirds, SGD),
    "augmix": (256, 50_000, lambda share: 1e-3, SGD),
    "rn50_augmix": (256, 50_000, lambda share: 1e-3, SGD),
    "rn50_augmix_weights": (256, 50_000, lambda share: 1e-3, SGD),
    "rn50_deepaugment": (256, 50_000, lambda share: 1e-6, NESTEROV),
    "rn50_deepaugment_weights": (256, 50_000, lambda share: 1e-6, NESTEROV),
    "rn50_both": (256, 50_000, lambda share: 1e-6, NESTEROV),
    "rn50_synth": (256, 50_000, lambda share: 1e-5, {**ADAMW, "weight_decay": 1e-4}),
    "vit_first": (2048, 500_000, first_stage, {**LAMB, "weight_decay": 0.05}),
    "vit": (512, 50_000, second_stage, {**ADAMW, "weight_decay": 0.1}),
}
#: The short runs on CIFAR-10 and photos, with the script's own schedule.
SHORT = ("a", "b", "c")
#: airbench94's, whose rates tests/examples/test_airbench_training.py holds to the paper.
STRONG = "strong"


def tiny(model: str) -> NormalizedClassifier:
    return NormalizedClassifier(build_model("timm/test_vit" if model.startswith("timm/") else "resnet18", 2), 0.5, 0.5)


def parse(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    monkeypatch.setattr(sys, "argv", ["train_classifier.py", *arguments])
    return train_classifier.parse_arguments()


def write_checkpoint(path: Path, options: dict[str, object]) -> None:
    """A file as AugMix's script writes it, after one step."""
    model = tiny("resnet50").model
    optimizer = torch.optim.SGD(model.parameters(), **options)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    optimizer.step()
    weights = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"epoch": 89, "model": "resnet50", "state_dict": weights, "optimizer": optimizer.state_dict()}, path)


def steps(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, object]]:
    """The optimiser's options at each step: those of all parameters, the weight decay of the decayed ones."""
    if args.init_optimizer:
        options, args.init = CHECKPOINTS[args.init.name], folder / args.init.name
        write_checkpoint(args.init, options)
    optimizer, schedule = build_optimizer(args, tiny(args.model))
    for _ in range(args.steps):
        groups = optimizer.param_groups
        assert len({group["lr"] for group in groups}) == 1
        assert [group["weight_decay"] for group in groups[1:]] == [0] * len(groups[1:])
        yield {"kind": type(optimizer).__name__, **groups[0]}
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("place", COMMANDS)
def test_the_rate_momentum_and_decay_of_each_step(place, monkeypatch, tmp_path):
    args, name = parse(COMMANDS[place], monkeypatch), place.split()[0]
    if name in SHORT:
        assert (args.lr, args.weight_decay, args.schedule, args.nesterov) == (0.2, 5e-4, "onecycle", True)
        return
    if name == STRONG:
        assert (args.lr, args.batch_size, args.label_smoothing, args.optimizer) == (1.5, 1024, 0.2, "airbench")
        return
    images, number, rate, options = PAPER[name]
    assert args.batch_size * GPUS == images
    assert args.steps == number
    args.steps, args.warmup = number // SHORTER, args.warmup // SHORTER
    found = list(steps(args, tmp_path))
    assert len(found) == args.steps
    # A warm-up of 31.25 shortened steps has 31, so shares are rounded by less than one in a hundred of the warm-up.
    tolerance = 0.01 if args.warmup and args.warmup * SHORTER != 12_500 else 1e-9
    for step, group in enumerate(found):
        assert group["lr"] == pytest.approx(rate(step / args.steps), rel=tolerance)
        assert {key: group[key] for key in options} == options


def test_all_runs_of_the_paper_are_documented():
    assert {place.split()[0] for place in COMMANDS} == {*PAPER, *SHORT, STRONG}


def test_the_default_schedule_moves_rate_and_momentum_against_each_other(monkeypatch, tmp_path):
    args = parse(["--output", "runs/a", "--steps", "100"], monkeypatch)
    found = list(steps(args, tmp_path))
    rates, momenta = ([group[key] for group in found] for key in ("lr", "momentum"))
    peak = rates.index(max(rates))
    assert peak == 24  # a quarter of the steps, counted from 0
    assert max(rates) == pytest.approx(0.2)
    assert rates[-1] < 1e-5
    assert momenta[0] == momenta[-1] == pytest.approx(0.95)
    assert momenta[peak] == pytest.approx(0.85)
    assert all(group["nesterov"] for group in found)
