"""How airbench94 is trained (Jordan 2024, arXiv 2404.00498): the optimiser, its rates, and Lookahead.

The paper sums the loss over a batch of 1024 images. Here it is their mean, so the rates are 1024 times the paper's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from diffaug_transforms.airbench import Airbench, set_whitening
from diffaug_transforms.classifiers import NormalizedClassifier

#: The rate at a batch of 1024 images; it is proportional to the batch: 11.5 / (1 + 1 / (1 - momentum)), section A.
LR, MOMENTUM = 1.5, 0.85
#: The biases of batch norms learn faster by this factor, and decay less by it.
BIAS_FACTOR = 64
#: The paper's decay over its rate, 0.0153 / 11.5, whatever the batch.
WEIGHT_DECAY = 1.33e-3
#: The share of the run in which the whitening layer's bias is trained: 3 of the paper's 9.9 epochs.
WHITENING_SHARE = 0.3
#: The triangle of the rate: its first and last height, and where its top is.
START, END, TOP = 0.2, 0.07, 0.23
#: Lookahead: steps between updates of the slow weights, and how slow they are at the end.
LOOKAHEAD_EVERY, LOOKAHEAD_DECAY = 5, 0.95**5
#: How many training images the whitening is computed from.
WHITENING_IMAGES = 5000


def check_airbench_arguments(args: argparse.Namespace) -> None:
    """Fill in what ``--optimizer airbench`` leaves open. ValueError if options exclude each other."""
    if args.optimizer != "airbench":
        return
    if args.model != "airbench94":
        raise ValueError(f"optimizer airbench is for --model airbench94. Got {args.model}")
    if args.init:
        raise ValueError("optimizer airbench trains from scratch. Leave out --init, or pass --optimizer sgd")
    args.lr = LR * args.batch_size / 1024 if args.lr is None else args.lr
    args.weight_decay = WEIGHT_DECAY if args.weight_decay is None else args.weight_decay


def build_airbench_optimizer(
    args: argparse.Namespace, classifier: NormalizedClassifier
) -> tuple[Optimizer, LRScheduler]:
    """Nesterov's SGD with three groups: the norms' biases, the whitening's bias, and first all others. Its schedule."""
    model = cast(Airbench, classifier.model)
    fast = model.norm_biases()
    first = [model.whiten.bias]
    apart = {id(parameter) for parameter in (*fast, *first)}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in apart]
    groups: list[dict[str, Any]] = [
        {"params": others},
        {"params": first},
        {"params": fast, "lr": args.lr * BIAS_FACTOR, "weight_decay": args.weight_decay / BIAS_FACTOR},
    ]
    optimizer = SGD(groups, args.lr, momentum=MOMENTUM, nesterov=True, weight_decay=args.weight_decay)

    def whole(step: int) -> float:
        return triangle(step / args.steps)

    def at_first(step: int) -> float:
        return whole(step) if step < WHITENING_SHARE * args.steps else 0.0

    return optimizer, LambdaLR(optimizer, [whole, at_first, whole])


def triangle(share: float) -> float:
    """The rate's factor after this share of the run: up from ``START`` to 1, then down to ``END``."""
    if share < TOP:
        return START + (1 - START) * share / TOP
    return 1 + (END - 1) * (share - TOP) / (1 - TOP)


class Lookahead:
    """Slow weights that follow the trained ones, and to which these return (Zhang et al. 2019, arXiv 1907.08610).

    The slow weights become slower with the third power of the time, as in the paper's section 3.4. At the last step the
    model gets them as they are.
    """

    def __init__(self, model: torch.nn.Module, steps: int) -> None:
        self.values = [value for value in model.state_dict().values() if value.is_floating_point()]
        self.slow = [value.clone() for value in self.values]
        self.steps = steps

    @torch.no_grad()
    def step(self, step: int) -> None:
        """After the optimiser's step with this number, from 1 on."""
        last = step == self.steps
        if step % LOOKAHEAD_EVERY and not last:
            return
        decay = 1.0 if last else LOOKAHEAD_DECAY * (step / self.steps) ** 3
        torch._foreach_lerp_(self.slow, self.values, 1 - decay)
        torch._foreach_copy_(self.values, self.slow)

    def state_dict(self) -> dict[str, Any]:
        return {"slow": self.slow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for own, saved in zip(self.slow, state["slow"]):
            own.copy_(saved)


def shifted_crop(size: int) -> v2.Transform:
    """The clean view: a shift by up to two pixels over a mirrored border, and a flip."""
    crop = v2.RandomCrop(size, padding=2, padding_mode="reflect")
    return v2.Compose([v2.Resize((size, size), antialias=True), crop, v2.RandomHorizontalFlip()])


def whiten(classifier: NormalizedClassifier, images: Iterable[Any]) -> None:
    """Compute the first layer from these training images, PIL, all of one size."""
    batch: Tensor = torch.stack([F.pil_to_tensor(image) for image in images]).float() / 255
    set_whitening(cast(Airbench, classifier.model), classifier.normalize(batch))
