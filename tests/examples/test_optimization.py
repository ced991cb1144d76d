"""An optimiser's state from a checkpoint, parameters without weight decay, and batch norm over several GPUs."""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from optimization import build_optimizer, parameter_groups, synchronise_batch_norm
from torch import nn
from train_classifier import parse_arguments

from diffaug_transforms.classifiers import NormalizedClassifier, build_model


def arguments(monkeypatch: pytest.MonkeyPatch, *options: object) -> Namespace:
    monkeypatch.setattr(sys, "argv", ["train_classifier.py", "--output", "runs/x", *map(str, options)])
    return parse_arguments()


def classifier(width: int = 4) -> NormalizedClassifier:
    torch.manual_seed(0)
    return NormalizedClassifier(build_model(f"cifar_resnet-{width}", 3), 0.5, 0.5)


def take_step(model: NormalizedClassifier, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    torch.manual_seed(1)
    nn.functional.cross_entropy(model(torch.rand(4, 3, 8, 8)), torch.arange(4) % 3).backward()
    optimizer.step()


def trained(kind: type[torch.optim.Optimizer], **options: object) -> tuple[NormalizedClassifier, torch.optim.Optimizer]:
    """A classifier and its optimiser after two steps."""
    model = classifier()
    optimizer = kind(model.model.parameters(), **options)
    for _ in range(2):
        take_step(model, optimizer)
    return model, optimizer


def save(path: Path, model: NormalizedClassifier, optimizer: torch.optim.Optimizer) -> Path:
    """A checkpoint with the entries of AugMix's, from a model under DataParallel."""
    weights = {f"module.{name}": value for name, value in model.model.state_dict().items()}
    entries = {"epoch": 89, "model": "resnet50", "state_dict": weights, "best_acc1": torch.tensor(77.5)}
    torch.save({**entries, "optimizer": optimizer.state_dict()}, path)
    return path


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("sgd", torch.optim.SGD, {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}),
        ("sgd", torch.optim.SGD, {"lr": 1e-3, "momentum": 0.8, "nesterov": True, "weight_decay": 1e-4}),
        ("adamw", torch.optim.AdamW, {"lr": 1e-3, "betas": (0.8, 0.99), "weight_decay": 1e-4}),
    ],
)
def test_the_next_step_is_that_of_the_checkpoints_own_optimiser(name, kind, options, tmp_path, monkeypatch):
    model, optimizer = trained(kind, **options)
    init = save(tmp_path / "a.pth", model, optimizer)
    ours = classifier()
    ours.model.load_state_dict(model.model.state_dict())
    start = ["--optimizer", name, "--schedule", "constant", "--init", init, "--init-optimizer"]
    goes_on, _ = build_optimizer(arguments(monkeypatch, *start), ours)
    for _ in range(3):
        take_step(model, optimizer)
        take_step(ours, goes_on)
    for a, b in zip(model.parameters(), ours.parameters()):
        assert torch.equal(a, b)
    chosen = arguments(monkeypatch, *start, "--lr", "1e-6", "--weight-decay", "0")
    group = build_optimizer(chosen, ours)[0].param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (1e-6, 0)
    assert all(group[key] == value for key, value in options.items() if key not in ("lr", "weight_decay"))


def test_a_checkpoint_under_a_schedule_gives_its_last_rate_and_not_its_first(tmp_path, monkeypatch):
    """Schedules leave ``initial_lr`` and more in the state. A new schedule must not start from them."""
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.01)
    take_step(model, optimizer)
    schedule.step()
    init = save(tmp_path / "a.pth", model, optimizer)
    args = arguments(monkeypatch, "--schedule", "constant", "--init", init, "--init-optimizer")
    goes_on, schedule = build_optimizer(args, model)
    assert goes_on.param_groups[0]["lr"] == schedule.get_last_lr()[0] == pytest.approx(1e-3)


def test_checkpoints_that_do_not_fit(tmp_path, monkeypatch):
    model, optimizer = trained(torch.optim.SGD, lr=0.1, momentum=0.9)
    init = save(tmp_path / "a.pth", model, optimizer)
    weights = tmp_path / "weights.pth"
    torch.save({"state_dict": model.model.state_dict(), "epoch": 3}, weights)
    (tmp_path / "folder").mkdir()
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(init.read_bytes()[:-2000])
    other = NormalizedClassifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), 0.5, 0.5)

    def message(error: type[Exception], model: NormalizedClassifier, init: Path, name: str = "sgd") -> str:
        options = ["--schedule", "constant", "--init", init, "--init-optimizer", "--optimizer", name]
        with pytest.raises(error) as raised:
            build_optimizer(arguments(monkeypatch, *options), model)
        assert str(init) in str(raised.value)
        return str(raised.value)

    assert 'the entry "optimizer". Got the entries state_dict, epoch' in message(ValueError, model, weights)
    assert "no checkpoint. Leave out --init-optimizer" in message(ValueError, model, tmp_path / "folder")
    assert "only weights" in message(ValueError, model, tmp_path / "a.safetensors")
    assert "damaged or incomplete" in message(OSError, model, damaged)
    number = len(list(model.parameters()))
    assert f"an optimiser of 2 parameters, as the model has. Got one of {number}" in message(ValueError, other, init)
    assert re.search(
        r"momentum_buffer of shape \(8, 3, 4, 4\).*Got \(4, 3, 4, 4\)", message(ValueError, classifier(8), init)
    )
    assert "must have the state of adamw" in message(ValueError, model, init, "adamw")
    assert "must have the state of lamb" in message(ValueError, model, init, "lamb")
    adam = save(tmp_path / "adam.pth", *trained(torch.optim.AdamW, lr=1e-3))
    assert "must have the state of sgd" in message(ValueError, model, adam)
    fresh = save(tmp_path / "fresh.pth", model, torch.optim.AdamW(model.parameters()))
    assert "must have the state of sgd" in message(ValueError, model, fresh)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--init-optimizer", "--schedule", "constant"], "init-optimizer needs a checkpoint: pass it as --init"),
        (["--init-optimizer", "--init", "a.pth"], "pass --schedule constant to --init-optimizer"),
        (["--warmup", "5"], "warmup belongs to --schedule cosine. Got onecycle"),
        (["--augment", "four"], "augment must be three or a RandAugment such as rand-m9-mstd0.5-inc1. Got 'four'"),
        (["--mixup", "0.8", "--recipe", "augmix"], "mixup and cutmix need a recipe without AugMix"),
        (["--bce", "--label-smoothing", "0.1"], "bce has no label smoothing"),
        (["--drop-path", "0.1"], "drop-path needs a timm model. Got cifar_resnet-32"),
        (["--deepaugment", "edsr", "cae", "--deepaugment-weights", "cae.pt"], "must be edsr=FILE, cae=FILE, once"),
        (["--deepaugment", "edsr", "--deepaugment-weights", "cae=a.pt"], "must be edsr=FILE, once for each network"),
        (["--deepaugment", "cae", "--deepaugment-weights", "cae=a", "cae=b"], "once for each network. Got 'cae=b'"),
        (["--deepaugment", "sr3"], "invalid choice: 'sr3'"),
    ],
)
def test_options_that_exclude_each_other(options, message, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        arguments(monkeypatch, *options)
    assert message in capsys.readouterr().err


def test_weights_of_deepaugments_networks(monkeypatch):
    def weights(*options: str) -> dict[str, str]:
        return arguments(monkeypatch, *options).deepaugment_weights

    several = ["--deepaugment", "edsr", "cae", "--deepaugment-weights"]
    assert weights() == {}
    assert weights(*several, "cae=c.pt") == {"cae": "c.pt"}
    assert weights(*several, "cae=c.pt", "edsr=e.pt") == {"cae": "c.pt", "edsr": "e.pt"}
    assert weights("--deepaugment", "cae", "--deepaugment-weights", "run=1/c.pt") == {"cae": "run=1/c.pt"}


def test_transformers_have_no_weight_decay_on_biases_norms_and_embeddings():
    model = build_model("timm/test_vit", 3)
    decayed, others = (group["params"] for group in parameter_groups(model, 0.1))
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert {names[p] for p in decayed} == {n for n, p in model.named_parameters() if p.ndim > 1 and "blocks" in n} | {
        "patch_embed.proj.weight",
        "head.weight",
    }
    assert {"cls_token", "pos_embed", "norm.weight", "head.bias"} <= {names[p] for p in others}
    assert len(decayed) + len(others) == len(names)
    assert [len(group["params"]) for group in parameter_groups(classifier().model, 0.1)] == [
        len(list(classifier().parameters()))
    ]


def test_batch_norm_is_synchronised_on_several_gpus_only():
    def converted(processes: int, device: str) -> bool:
        model = build_model("cifar_resnet-4", 3)
        names, parameters = list(model.state_dict()), list(model.parameters())
        result = synchronise_batch_norm(model, processes, torch.device(device))
        assert list(result.state_dict()) == names
        assert all(a is b for a, b in zip(result.parameters(), parameters, strict=True))
        found = {type(module) for module in result.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
        assert len(found) == 1
        return found == {nn.SyncBatchNorm}

    assert converted(2, "cuda")
    assert not converted(1, "cuda")
    assert not converted(2, "cpu")
