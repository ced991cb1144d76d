"""Several devices, values that a device holds, and its memory: what a user can get wrong on a GPU, without one."""

from __future__ import annotations

import copy
import threading
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from diffaug_transforms import DiffAug, DiffAugEnsemble, ScoreNetwork
from diffaug_transforms.score import Denoiser, NoiseSchedule, memory
from tests.conftest import tiny_unet
from tests.pretend_device import PretendedDevices
from tests.test_syncs import F32, Place, assert_close, floats, labels, network, timesteps


@pytest.mark.parametrize("kind", ["Denoiser", "DiffAug"])
def test_two_threads_use_one_network_on_two_devices(kind: str) -> None:
    """Each thread has a device. Both call one Denoiser or DiffAug, again and again."""
    engine = Denoiser(network(torch.device("cpu")), **F32)
    augment = DiffAug(engine, timesteps=range(100))
    cpu = torch.device("cpu")
    draw = {"timesteps": timesteps(cpu) // 10, "noise": floats(cpu, 1)}

    def call(place: Place) -> Tensor:
        params = {name: tensor.to(place) for name, tensor in draw.items()}
        return (
            augment.transform(floats(place), params) if kind == "DiffAug" else engine(floats(place), *params.values())
        )

    expected, answers = call(cpu), []
    with PretendedDevices():
        start = threading.Barrier(2)

        def repeat(place: Place) -> None:
            start.wait()
            answers.extend((place, call(place)) for _ in range(4))

        threads = [threading.Thread(target=repeat, args=(torch.device("cuda", index),)) for index in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 8
        for place, answer in answers:
            assert answer.device == place
            assert_close(answer, expected)


def test_a_network_on_one_device_stays_there_if_images_come_on_another() -> None:
    with PretendedDevices():
        net = network(torch.device("cuda:0"))
        engine = Denoiser(net, **F32)
        for place in map(torch.device, ("cuda:1", "cuda:0", "cuda:1", "cpu")):
            assert engine(floats(place), timesteps(place), floats(place, 1)).device == place
        assert {weight.device for weight in net.parameters()} == {torch.device("cuda:0")}
        assert net.device == torch.device("cuda:0")


def test_two_devices_in_one_call_are_refused() -> None:
    here, there, engine = torch.device("cuda:0"), torch.device("cuda:1"), Denoiser(network(torch.device("cpu")), **F32)
    with PretendedDevices():
        inputs = floats(here), timesteps(here), floats(there, 1)
        with pytest.raises(ValueError, match="noise must be on the images' device, cuda:0. Got cuda:1"):
            engine(*inputs)
        with pytest.raises(ValueError, match="x_t must be on the network's device, cuda:0. Got cuda:1"):
            network(here)(floats(there), timesteps(here))


def test_timesteps_and_labels_of_the_host_go_to_the_images() -> None:
    """Both are what a user writes beside images of a device."""
    cpu, place = torch.device("cpu"), torch.device("cuda:1")
    expected = Denoiser(network(cpu, 5), **F32)(floats(cpu), timesteps(cpu), floats(cpu, 1), [0, 3, 1, 4])
    with PretendedDevices() as devices:
        engine, net = Denoiser(network(place, 5), **F32), network(place, 5)
        for classes in ([0, 3, 1, 4], labels(cpu), labels(place)):
            devices.syncs.clear()
            assert_close(engine(floats(place), timesteps(cpu), floats(place, 1), classes), expected)
        assert net(floats(place), timesteps(cpu), labels(cpu)).device == place


#: The last timestep and the last class of the tests' network.
LAST = {"timesteps": 999, "labels": 4}


@pytest.mark.parametrize("wrong", [-5, -1, 1000, 10**9])
def test_indices_beyond_the_tables_are_told_by_a_later_call(wrong: int) -> None:
    """On a real device an index out of range ends the process, and reading it would wait."""
    place = torch.device("cuda:1")
    with PretendedDevices() as devices:
        engine, net, images = Denoiser(network(place, 5), **F32), network(place, 5), floats(place)
        good = timesteps(place), labels(place)
        calls = [lambda *inputs: engine(images, inputs[0], images, inputs[1])]
        calls += [
            lambda *inputs, name=name: getattr(net, name)(images, *inputs) for name in ("eps", "score", "posterior")
        ]
        for call in calls:
            call(*good)
            for place_in_inputs, what in enumerate(LAST):
                bad = [tensor.clone() for tensor in good]
                bad[place_in_inputs][2] = wrong
                devices.syncs.clear()
                assert all(leaf.isfinite().all() for leaf in tree_leaves(call(*bad)))
                assert len(devices.syncs) <= 2  # of the line above
                with pytest.raises(
                    ValueError, match=rf"{what} must be in 0...{999 if what == 'timesteps' else 4}.*{wrong}"
                ):
                    call(*good)
                call(*good)


def test_images_left_on_the_cpu_after_to_cuda_are_told_once() -> None:
    cpu = torch.device("cpu")
    with PretendedDevices():
        moved = [
            DiffAug(network(cpu), **F32).to("cuda:1"),
            nn.Sequential(DiffAug(network(cpu), **F32)).cuda(1).float(),
            DiffAugEnsemble(nn.Flatten(), network(cpu), timesteps=[5], **F32).to("cuda:1"),
        ]
        for module in moved:
            with pytest.warns(UserWarning, match='moved to cuda:1, .* images.to\\("cuda:1"\\)') as caught:
                assert module(floats(cpu)).device == cpu
            assert len(caught) == 1
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                module(floats(cpu))
                module.to("cuda:1")(floats(torch.device("cuda:1")))
                copy.deepcopy(module).to("cpu")(floats(cpu))


@pytest.mark.parametrize(("free", "parts"), [(2**40, [48]), (0.4, [8] * 6), (1e-9, [1] * 48)])
def test_the_default_batch_fits_the_free_memory(monkeypatch, free: float, parts: list[int]) -> None:
    """``free`` is in units of the memory that the tensors of all 48 images take. Half of it may be used."""
    place = torch.device("cuda:1")
    monkeypatch.setattr(memory, "SMALL_BATCH_PIXELS", 1000)
    net = network(torch.device("cpu"))
    all_bytes = 48 * 16**2 * memory.bytes_of_a_pixel(net)
    monkeypatch.setattr(memory, "bytes_of_a_pixel", lambda _: all_bytes / 48 / 16**2)
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(free * all_bytes) * (device == place))
    with PretendedDevices():
        engine, seen = Denoiser(net, **F32), []
        engine.ready(place).unet.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        images = torch.rand(48, 3, 16, 16).to(place)
        engine(images, torch.full((48,), 5), images)
        assert seen == parts
        given = Denoiser(net, max_batch=24, **F32)
        given(images, torch.full((48,), 5), images)
        assert seen == parts


def test_the_memory_of_a_call_is_that_of_its_tensors() -> None:
    """One convolution without bias: its input in the network's dtype is there before, its output is made."""

    class OneConvolution(nn.Module):
        config = SimpleNamespace(in_channels=3, sample_size=16)

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1, bias=False)

        def forward(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
            return self.conv(x_t)

    class ReadsValues(OneConvolution):
        def forward(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
            return self.conv(x_t) * int(timesteps[0])

    nets = [ScoreNetwork(unet, NoiseSchedule.named("linear")) for unet in (OneConvolution(), ReadsValues())]
    assert [memory.bytes_of_a_pixel(net) for net in nets] == [3 * 4, 0]
    assert memory.bytes_of_a_pixel(nets[0].bfloat16()) == 3 * 4  # counted once for a network


def test_the_range_of_images_on_a_device_is_told_by_a_later_call() -> None:
    """The first call waits for nothing; the second one finds what the first one was given."""
    network = ScoreNetwork(tiny_unet(), NoiseSchedule.named("linear"))
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(768, 5))
    with PretendedDevices():
        users = (DiffAug(network), DiffAugEnsemble(classifier.to("cuda:1"), network, timesteps=[0, 10]))
        good = torch.rand(2, 3, 16, 16, device="cuda:1")
        for user in users:
            user(good * 255)
            with pytest.raises(ValueError, match="Got values in .*divide by 255") as caught:
                user(good)
            assert "earlier call" in caught.value.__notes__[0]
            user(good)
            copy.deepcopy(user)(good)
