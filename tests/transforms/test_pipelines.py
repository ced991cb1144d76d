"""DiffAug where users put it: in a DataLoader's workers, after it, under compile, in DDP, beside MixUp."""

from __future__ import annotations

import copy
import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from diffaug_transforms import DiffAug, DiffAugEnsemble, ScoreNetwork
from tests import contracts


class Pictures(Dataset):
    """PIL images and labels, as ImageFolder gives them."""

    def __init__(self, transform=None) -> None:
        self.pictures = [v2.functional.to_pil_image(image) for image in contracts.images(16, batch=6)]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int):
        return self.transform(self.pictures[index]), index


PLAIN = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_in_dataloader_workers(network, start):
    pipeline = v2.Compose([v2.RandomHorizontalFlip(), DiffAug(network, dtype=torch.float32), *PLAIN])
    context = multiprocessing.get_context(start)
    loader = DataLoader(Pictures(pipeline), batch_size=3, num_workers=1, multiprocessing_context=context)
    images, labels = next(iter(loader))
    assert images.shape == (3, 3, 16, 16)
    assert labels.tolist() == [0, 1, 2]


def test_a_network_by_name_loads_inside_the_worker():
    pipeline = v2.Compose([v2.Resize(32), DiffAug("cifar10", p=0.5), *PLAIN])
    loader = DataLoader(Pictures(pipeline), batch_size=2, num_workers=1, multiprocessing_context="fork")
    assert next(iter(loader))[0].shape == (2, 3, 32, 32)


def test_after_the_dataloader_with_mixup(network):
    loader = DataLoader(Pictures(v2.Compose(PLAIN)), batch_size=6)
    on_batch = v2.Compose([DiffAug(network), v2.MixUp(num_classes=6)])
    for images, labels in loader:
        views, soft = on_batch(images, labels)
    assert views.shape == (6, 3, 16, 16)
    torch.testing.assert_close(soft.sum(1), torch.ones(6))


def test_under_torch_compile(network):
    """The whole model with DiffAug in front compiles. Checks of values break the graph and still work."""
    model = nn.Sequential(DiffAug(network, dtype=torch.float32), nn.Flatten(), nn.Linear(768, 2))
    images = contracts.images(16)
    expected = contracts.seeded(model, images)
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(contracts.seeded(compiled, images), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"must be finite and in \[0, 1\]"):
        compiled(images + 2)


def test_compile_option(network, monkeypatch):
    """The denoiser compiles its own copy, once. Inductor itself is tried in benchmarks/throughput.py."""
    calls = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: calls.append(function) or function)
    transform = DiffAug(network, compile=True)
    transform(contracts.images(16))
    compiled = len(calls)
    for _ in range(2):
        transform(contracts.images(16))
    assert len(calls) == compiled > 0
    assert network.unet._compiled_call_impl is None


def test_deepcopies_work_apart(network, classifier):
    ensemble = DiffAugEnsemble(classifier, network, dtype=torch.float32)
    images = contracts.images(16)
    expected = contracts.seeded(ensemble, images)
    other = copy.deepcopy(ensemble)
    with torch.no_grad():
        other.classifier[1].weight.zero_()
    assert torch.equal(contracts.seeded(ensemble, images), expected)


def train_one_step(rank: int, folder: str) -> None:
    """One of two processes: a classifier behind DiffAug in DDP; saves its gradient and the draw."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.Sequential(DiffAug(f"{folder}/network", dtype=torch.float32), nn.Flatten(), nn.Linear(768, 2))
    torch.manual_seed(1 + rank)
    ddp = DistributedDataParallel(model)
    views = []
    model[0].register_forward_hook(lambda module, inputs, output: views.append(output))
    ddp(contracts.images(16)).square().mean().backward()
    torch.save({"gradient": model[2].weight.grad, "views": views[0]}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_in_ddp_ranks_draw_apart_and_gradients_agree(network: ScoreNetwork, tmp_path: Path):
    network.save_pretrained(tmp_path / "network")
    mp.spawn(train_one_step, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert torch.equal(first["gradient"], second["gradient"])
    assert not torch.equal(first["views"], second["views"])
