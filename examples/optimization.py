"""The optimiser and the learning rate of every step, and an optimiser's state from a published checkpoint."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR, OneCycleLR

from diffaug_transforms.classifiers import NormalizedClassifier
from diffaug_transforms.files import load_pickle, reading

OPTIMIZERS = ("sgd", "adamw", "lamb", "airbench")
SCHEDULES = ("onecycle", "step", "constant", "cosine")
#: The learning rate and weight decay of a run that names none and takes none from a checkpoint.
LR, WEIGHT_DECAY = 0.2, 5e-4
#: The first learning rate of a warm-up, as DeiT III's.
WARMUP_START = 1e-6
#: What each optimiser keeps for a parameter.
KEPT = {
    "sgd": {"momentum_buffer"},
    "adamw": {"step", "exp_avg", "exp_avg_sq"},
    "lamb": {"exp_avg", "exp_avg_sq"},
}


def add_optimizer_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("optimiser")
    group.add_argument(
        "--optimizer", choices=OPTIMIZERS, default="sgd", help="sgd has momentum 0.9; airbench is for airbench94"
    )
    nesterov = "Nesterov's momentum for sgd (default: with onecycle only), unless --init-optimizer says"
    group.add_argument("--nesterov", action=argparse.BooleanOptionalAction, help=nesterov)
    group.add_argument("--lr", type=float, help=f"default: {LR}, or that of --init-optimizer")
    group.add_argument("--weight-decay", type=float, help=f"default: {WEIGHT_DECAY}, or that of --init-optimizer")
    schedule = "onecycle: up and down once, the momentum against it; step: x 0.1 each third; cosine: down once"
    group.add_argument("--schedule", choices=SCHEDULES, default="onecycle", help=schedule)
    group.add_argument("--warmup", type=int, default=0, help="steps of cosine in which the rate rises from 1e-6")
    group.add_argument("--min-lr", type=float, default=0.0, help="the rate at the end of cosine")
    init = "go on with the optimiser of --init: its momentum, and its rate and weight decay if none is given"
    group.add_argument("--init-optimizer", action="store_true", help=init)


def set_optimizer_defaults(args: argparse.Namespace) -> None:
    """Fill in what depends on other options. ValueError if options exclude each other."""
    if args.init_optimizer and not args.init:
        raise ValueError("init-optimizer needs a checkpoint: pass it as --init")
    if args.init_optimizer and args.schedule == "onecycle":
        raise ValueError("onecycle has a rate and a momentum of its own: pass --schedule constant to --init-optimizer")
    if args.warmup and args.schedule != "cosine":
        raise ValueError(f"warmup belongs to --schedule cosine. Got {args.schedule}")
    if args.nesterov is None:
        args.nesterov = args.optimizer == "sgd" and args.schedule == "onecycle"
    if not args.init_optimizer:
        args.lr = LR if args.lr is None else args.lr
        args.weight_decay = WEIGHT_DECAY if args.weight_decay is None else args.weight_decay


def build_optimizer(args: argparse.Namespace, classifier: NormalizedClassifier) -> tuple[Optimizer, LRScheduler]:
    """The optimiser, with the state of the checkpoint ``init`` if ``init_optimizer``, and its schedule."""
    lr = LR if args.lr is None else args.lr
    weight_decay = WEIGHT_DECAY if args.weight_decay is None else args.weight_decay
    groups = parameter_groups(classifier.model, weight_decay)
    optimizer: Optimizer
    if args.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr, momentum=0.9, nesterov=args.nesterov, weight_decay=weight_decay)
    elif args.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr, weight_decay=weight_decay)
    else:
        from timm.optim import Lamb  # pip install "diffaug-transforms[train]"

        optimizer = Lamb(groups, lr, eps=1e-8, weight_decay=weight_decay)
    if args.init_optimizer:
        chosen = {name for name in ("lr", "weight_decay") if getattr(args, name) is not None}
        load_optimizer(optimizer, args.optimizer, args.init, chosen)
    return optimizer, build_schedule(args, optimizer)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """All parameters; two groups if the model names parameters without weight decay, as timm's transformers do.

    Then biases and the weights of norms have no weight decay either.
    """
    undecayed: Callable[[], set[str]] | None = getattr(model, "no_weight_decay", None)
    if undecayed is None:
        return [{"params": list(model.parameters())}]
    named = undecayed()
    decayed: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (others if parameter.ndim <= 1 or name in named else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def build_schedule(args: argparse.Namespace, optimizer: Optimizer) -> LRScheduler:
    if args.schedule == "onecycle":  # the momentum, or Adam's first beta, goes from 0.95 to 0.85 and back
        return OneCycleLR(optimizer, args.lr, args.steps, pct_start=0.25)
    if args.schedule == "step":
        return MultiStepLR(optimizer, [args.steps // 3, args.steps * 2 // 3], gamma=0.1)
    if args.schedule == "constant":
        return LambdaLR(optimizer, lambda step: 1.0)
    return LambdaLR(optimizer, cosine(optimizer.param_groups[0]["lr"], args.min_lr, args.steps, args.warmup))


def cosine(lr: float, min_lr: float, steps: int, warmup: int) -> Callable[[int], float]:
    """The share of ``lr`` at each step: linear from ``WARMUP_START``, then cosine to ``min_lr``, as timm's.

    The cosine counts the warm-up's steps too. timm changes the rate after each epoch, this function at each step.
    """

    def share(step: int) -> float:
        if step < warmup:
            return (WARMUP_START + (lr - WARMUP_START) * step / warmup) / lr
        return (min_lr + (lr - min_lr) * (1 + math.cos(math.pi * step / steps)) / 2) / lr

    return share


def load_optimizer(optimizer: Optimizer, name: str, init: Path, chosen: set[str]) -> None:
    """Go on with the optimiser of a checkpoint: momentum, learning rate, weight decay and all its other options.

    Args:
        name: one of ``OPTIMIZERS``.
        init: a ``.pth`` file of a training script, with the entry "optimizer", or a folder of ours with a checkpoint.
        chosen: options that keep their value, such as "lr".

    Raises:
        ValueError: there is no optimiser in the checkpoint, or it is one of another kind or for other parameters.
        OSError: the file is damaged.
    """
    state = read_optimizer(init)
    saved, groups = state["param_groups"], optimizer.param_groups
    counts = [[len(group["params"]) for group in some] for some in (groups, saved)]
    if counts[0] != counts[1]:
        ours, got = (" + ".join(map(str, count)) for count in counts)
        raise ValueError(f"{init} must have an optimiser of {ours} parameters, as the model has. Got one of {got}")
    parameters = [parameter for group in groups for parameter in group["params"]]
    places = [place for group in saved for place in group["params"]]
    kept = {place: entry for place, entry in state["state"].items() if any(v is not None for v in entry.values())}
    for place, parameter in zip(places, parameters):
        check_entry(kept.get(place, {}), name, parameter, init)
    if not kept or ("momentum" in saved[0]) != (name == "sgd"):
        raise ValueError(f"{init} must have the state of {name}. Got {sorted(set(saved[0]) - {'params'})}")
    known = (set(optimizer.defaults) | {"step"}) - chosen
    merged = [
        {**group, **{key: value for key, value in old.items() if key in known}, "params": old["params"]}
        for group, old in zip(groups, saved)
    ]
    optimizer.load_state_dict({"state": kept, "param_groups": merged})


def read_optimizer(init: Path) -> dict[str, Any]:
    """The state of the optimiser in a checkpoint. ValueError if there is none."""
    path = init / "checkpoint" / "optimizer.bin" if init.is_dir() else init
    if init.is_dir() and not path.exists():
        raise ValueError(f"{init} has no optimiser: it has no checkpoint. Leave out --init-optimizer")
    if path.suffix == ".safetensors":
        raise ValueError(f"{path} has no optimiser, only weights. Leave out --init-optimizer")
    with reading(path):
        found = load_pickle(path)
    state = found if init.is_dir() else found.get("optimizer") if isinstance(found, dict) else None
    if not isinstance(state, dict) or not {"state", "param_groups"} <= set(state):
        got = f"the entries {', '.join(map(str, list(found)[:8]))}" if isinstance(found, dict) else type(found).__name__
        raise ValueError(f'{path} must have the entry "optimizer". Got {got}. Leave out --init-optimizer')
    return state


def check_entry(entry: dict[str, Any], name: str, parameter: Tensor, init: Path) -> None:
    """ValueError unless an entry of a saved state is one of this optimiser and of this parameter."""
    if entry and set(entry) != KEPT[name]:
        raise ValueError(f"{init} must have the state of {name}, {sorted(KEPT[name])}. Got {sorted(entry)}")
    for key, value in entry.items():
        if isinstance(value, Tensor) and key != "step" and value.shape != parameter.shape:
            shapes = f"{tuple(parameter.shape)}, as a parameter of the model. Got {tuple(value.shape)}"
            raise ValueError(f"{init} must have {key} of shape {shapes}")


def synchronise_batch_norm(model: nn.Module, processes: int, device: torch.device) -> nn.Module:
    """Batch norm over the images of all GPUs, as in the paper's scripts. On CPUs PyTorch has none: the model as it is.

    The names of the weights stay the same.
    """
    if processes == 1 or device.type != "cuda":
        return model
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)
