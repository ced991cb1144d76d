"""DiffAug where users put it: in a DataLoader's workers, after it, under compile, in DDP, beside MixUp."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.transforms import v2

from diffaug_transforms import AugMix, DeepAugment, DiffAug, Purify, ScoreNetwork, load_score_network
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


class Seeded:
    """A transform whose draws are the same in every process."""

    def __init__(self, transform) -> None:
        self.transform = transform

    def __call__(self, image):
        torch.manual_seed(0)
        return self.transform(image)


PLAIN = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]


def test_worker_processes_give_the_same_bytes_however_they_start():
    """A network that is passed in travels to the workers. They use one thread: more threads round differently."""
    network = load_score_network("cifar10")
    pipeline = v2.Compose([v2.Resize(32), DiffAug(network, timesteps=300, dtype=torch.float32), *PLAIN])
    threads, seen = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for context in (None, "fork", "spawn", "forkserver"):
        dataset = Subset(Pictures(Seeded(pipeline)), [0])
        loader = DataLoader(dataset, num_workers=int(context is not None), multiprocessing_context=context)
        seen.append(next(iter(loader))[0])
    torch.set_num_threads(threads)
    assert seen[0].shape == (1, 3, 32, 32)
    assert all(torch.equal(images, seen[0]) for images in seen)


def test_a_network_by_name_loads_inside_a_forked_worker():
    pipeline = v2.Compose([v2.Resize(32), DiffAug("cifar10", p=0.5), *PLAIN])
    loader = DataLoader(Pictures(pipeline), batch_size=2, num_workers=1, multiprocessing_context="fork")
    assert next(iter(loader))[0].shape == (2, 3, 32, 32)


class Repeated(Dataset):
    """One picture many times, so that equal views show equal draws."""

    def __init__(self, transform) -> None:
        self.transform, self.picture = transform, contracts.images(16)[0]

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int):
        return self.transform(self.picture)


def epochs(transform, **options) -> list[bytes]:
    """All views of three epochs, from one seed for torch and one for the generator."""
    torch.manual_seed(3)
    transform.generator = torch.Generator().manual_seed(0)
    loader = DataLoader(Repeated(transform), batch_size=None, **options)
    return [view.numpy().tobytes() for _ in range(3) for view in loader]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_workers": 2, "multiprocessing_context": "fork"},
        {"num_workers": 1, "multiprocessing_context": "spawn", "persistent_workers": True},
        {"num_workers": 2, "multiprocessing_context": "fork", "persistent_workers": True},
    ],
    ids=["none", "fork", "spawn", "persistent"],
)
@pytest.mark.parametrize("kind", ["DiffAug", "DeepAugment"])
def test_a_generator_repeats_nothing_in_workers_and_repeats_with_the_seeds(oracle, schedule, kind, options):
    network = ScoreNetwork(oracle, schedule)
    transform = DiffAug(network, dtype=torch.float32) if kind == "DiffAug" else DeepAugment()
    views = epochs(copy.deepcopy(transform), **options)
    assert len(set(views)) == 24
    if options.get("multiprocessing_context") != "spawn":  # a start takes seconds
        assert epochs(transform, **options) == views


def test_after_the_dataloader_with_mixup(network):
    loader = DataLoader(Pictures(v2.Compose(PLAIN)), batch_size=6)
    on_batch = v2.Compose([DiffAug(network), v2.MixUp(num_classes=6)])
    for images, labels in loader:
        views, soft = on_batch(images, labels)
    assert views.shape == (6, 3, 16, 16)
    torch.testing.assert_close(soft.sum(1), torch.ones(6))


@pytest.mark.usefixtures("fresh_compiler")
def test_under_torch_compile(network):
    """The whole model with DiffAug in front compiles. Values are not checked then: that would break the graph."""
    model = nn.Sequential(DiffAug(network, dtype=torch.float32), nn.Flatten(), nn.Linear(768, 2))
    images = contracts.images(16)
    expected = contracts.seeded(model, images)
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(contracts.seeded(compiled, images), expected, rtol=1e-3, atol=1e-3)


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


def test_in_ddp(network, tmp_path):
    """In one process: tests/examples/test_distributed.py has two, whose draws differ and whose gradients agree."""
    model = nn.Sequential(DiffAug(network, dtype=torch.float32), nn.Flatten(), nn.Linear(768, 2))
    contracts.seeded(model, contracts.images(16)).square().mean().backward()
    expected, model[2].weight.grad = model[2].weight.grad, None
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    contracts.seeded(DistributedDataParallel(model), contracts.images(16)).square().mean().backward()
    dist.destroy_process_group()
    torch.testing.assert_close(model[2].weight.grad, expected)


def test_lazy_batches_of_hugging_face_are_dicts_to_every_transform(conditional):
    """``map`` passes a mapping that is no dict, of rows or of one row; labels in it are found, the rest stays."""
    datasets = pytest.importorskip("datasets")
    pictures = [v2.functional.to_pil_image(image) for image in contracts.images(16)]
    columns = {"image": pictures, "label": [0, 1, 2, 3], "name": ["a", "b", "c", "d"]}
    data = datasets.Dataset.from_dict(columns)
    augment = DiffAug(conditional, conditional=True, timesteps=300, dtype=torch.float32)
    rows = contracts.seeded(augment, columns)["image"]
    torch.manual_seed(0)
    mapped = data.map(augment, batched=True)
    assert [image.tobytes() for image in mapped["image"]] == [image.tobytes() for image in rows]
    assert (mapped["label"][:], mapped["name"][:]) == (columns["label"], columns["name"])
    one = data.map(DiffAug(conditional, conditional=True, timesteps=300))[2]
    assert (one["label"], one["name"]) == (2, "c")
    assert one["image"].tobytes() != pictures[2].tobytes()
    for transform in (AugMix(), DeepAugment(), Purify("cifar10", sigma=0.1)):
        image = data.map(transform, batched=True)[0]["image"]
        assert image.size == (16, 16)
        assert image.tobytes() != pictures[0].tobytes()
    asked_for = data.with_transform(augment)[:2]
    assert asked_for["label"] == [0, 1]
    assert asked_for["image"][0].size == (16, 16)
