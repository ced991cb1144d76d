"""Two processes (gloo, CPU): the gradients of one process on the same global batch, and other noise on each rank."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from train_classifier import classify_views, make_batch_views

from diffaug_transforms import AugMix, DiffAug, ScoreNetwork, compose_with
from diffaug_transforms.score import NoiseSchedule
from diffaug_transforms.transforms import ViewsLoss
from tests import contracts
from tests.conftest import GaussianOracle

SIZE, BATCH = 8, 4


def classifier() -> nn.Module:
    """Without batch norm, whose statistics are each process's own."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))


def rank_views(rank: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The views of one rank's part of a step: the same images on both ranks, so that only the draws differ."""
    schedule = NoiseSchedule.named("linear", 1000)
    diffaug = DiffAug(ScoreNetwork(GaussianOracle(schedule), schedule), dtype=torch.float32)
    views, labels = compose_with(AugMix(), diffaug=diffaug), torch.arange(BATCH)
    torch.manual_seed(0)
    return make_batch_views(views, views.per_sample(contracts.images(SIZE)), labels, (0, 1, rank)), labels + rank


def gradients(model: nn.Module, views: dict[str, torch.Tensor], labels: torch.Tensor) -> list[torch.Tensor]:
    ViewsLoss()(classify_views(model, views), labels).backward()
    return [parameter.grad for parameter in model.parameters()]


def work(rank: int, folder: str) -> None:
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.set_num_threads(1)
    views, labels = rank_views(rank)
    result = gradients(DistributedDataParallel(classifier()), views, labels)
    torch.save((result, dict(views), labels), Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(tmp_path):
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]
    (first, views, labels), (second, other_views, other_labels) = ranks
    together = {name: torch.cat([view, other_views[name]]) for name, view in views.items()}
    expected = gradients(classifier(), together, torch.cat([labels, other_labels]))
    for a, b, c in zip(first, second, expected):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-6)
    assert torch.equal(views["clean"], other_views["clean"])
    differs = (views["diffaug"] != other_views["diffaug"]).flatten(1).any(dim=1)
    assert differs.all()
