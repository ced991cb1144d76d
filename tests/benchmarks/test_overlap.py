"""What the benchmarks do ahead while the network runs, and how rarely they wait for the device."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks import certify
from benchmarks.harness.data import open_set
from diffaug_transforms import ScoreNetwork
from diffaug_transforms.robustness import DenoisedSmoothing, correct, random_subset
from diffaug_transforms.robustness.evaluation import batches as batches_module
from diffaug_transforms.robustness.evaluation import judging
from diffaug_transforms.robustness.evaluation.batches import ahead, batches, draw_noise
from diffaug_transforms.robustness.evaluation.modes import Views
from diffaug_transforms.score import Denoiser
from tests.conftest import tiny_unet
from tests.pretend_device import PretendedDevices

CPU = torch.device("cpu")


def test_batches_are_the_same_for_any_workers_and_processes(cifar10):
    data = random_subset(open_set("cifar10-c", str(cifar10), "gaussian_noise", 5), 5)
    options: dict[str, Any] = {"numbers": {2, 9}, "seed": 3}
    alone = list(batches(data, 2, **options))
    for batch in alone:
        for number in (2, 9):
            assert torch.equal(batch.noise[number], draw_noise(batch.places, number, (3, 32, 32), 3))
    several = [batch for rank in (0, 1) for batch in batches(data, 3, rank, 2, workers=2, **options)]
    by_place = {place: (b.images[i], b.noise[9][:, i]) for b in several for i, place in enumerate(b.places)}
    for batch in alone:
        for i, place in enumerate(batch.places):
            assert torch.equal(batch.images[i], by_place[place][0])
            assert torch.equal(batch.noise[9][:, i], by_place[place][1])


def test_parts_are_made_ahead_in_their_order():
    made: list[int] = []

    def parts() -> Any:
        for i in range(4):
            made.append(i)
            yield torch.tensor([i])

    found = ahead(parts())
    assert int(next(found)) == 0
    assert [int(part) for part in found] == [1, 2, 3]
    assert made == [0, 1, 2, 3]

    def failing() -> Any:
        yield torch.zeros(1)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(ahead(failing()))


def test_votes_are_counted_without_waiting(schedule):
    """One wait for each classifier, at the end. The draws come from the CPU."""
    network = ScoreNetwork(tiny_unet(), schedule)
    classifiers = {name: nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5)) for name in "ab"}
    smoothed = DenoisedSmoothing(nn.Identity(), Denoiser(network, max_batch=4, dtype=torch.float32), 0.25)
    noise = [torch.randn(4, 3, 16, 16) for _ in range(3)]
    expected = certify.count_votes(smoothed, classifiers, torch.full((3, 16, 16), 0.5), noise)
    with PretendedDevices() as devices:
        image = torch.full((3, 16, 16), 0.5, device="cuda")
        there = {name: classifier.to("cuda") for name, classifier in classifiers.items()}
        smoothed.denoise(image[None], torch.zeros(1, 3, 16, 16, device="cuda"))  # the network moves
        before = len(devices.syncs)
        parts = (part.to("cuda", non_blocking=True) for part in noise)
        with torch.no_grad():  # pretended tensors know no inference mode
            found = certify.count_votes.__wrapped__(smoothed, there, image, parts)
        assert len(devices.syncs) - before == 2
    assert found == expected
    assert sum(found["a"]) == 12


def test_a_part_is_read_from_the_device_once(monkeypatch):
    """For every record two values at the end of a part, however many batches there are."""
    images = torch.randint(256, (6, 3, 4, 4), dtype=torch.uint8)
    data = TensorDataset(images, torch.arange(6) % 5)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    views = Views("ensemble", "network", (0, 5), 1, 1, lambda batch, folder: (batch.images / 255)[None])
    options = judging.Options(("default", "de"), batch_size=2)

    def judge(device: torch.device, classifier: nn.Module) -> dict:
        process = SimpleNamespace(device=device, process_index=0, num_processes=1, is_main_process=False)
        return judging.judge_part(data, [views], {"a": classifier}, process, options, Path("a"))

    monkeypatch.setattr(judging, "log_probabilities", judging.log_probabilities.__wrapped__)
    monkeypatch.setattr(torch.utils.data._utils.pin_memory, "pin_memory", lambda data, device: data)
    monkeypatch.setattr(batches_module, "pin", lambda tensor: tensor)
    expected = judge(CPU, classifier)
    assert {len(tally.right) for tally in expected.values()} == {6}
    with PretendedDevices() as devices:
        moved = classifier.to("cuda")
        before = len(devices.syncs)
        with torch.no_grad():
            found = judge(torch.device("cuda", 0), moved)
        assert len(devices.syncs) - before == 2 * len(expected)
    assert {k: v.right for k, v in found.items()} == {k: v.right for k, v in expected.items()}
    entropies = {k: v.entropy for k, v in expected.items()}
    assert {k: v.entropy for k, v in found.items()} == pytest.approx(entropies)


def test_correct_does_not_wait_for_targets_on_the_host():
    logits = torch.tensor([[0.1, 9, 0.2, 8, 0.3], [0.1, 9, -0.2, 8, 0.3], [0.5, 9, 0.2, 8, 0.3]])
    with PretendedDevices() as devices:
        there = logits.to("cuda")
        correct(there, torch.tensor([4, 2, 0]), (0, 2, 4))
        before = len(devices.syncs)
        right = correct(there, torch.tensor([4, 2, 0]), (0, 2, 4))
        plain = correct(there, torch.tensor([[1, -1], [2, 0], [3, 1]]))
        assert len(devices.syncs) == before
        assert (right.tolist(), plain.tolist()) == ([True, False, True], [True, False, True])
