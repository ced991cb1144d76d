"""The pretended devices are right: places, syncs, values, gradients."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import tv_tensors

from tests.conftest import tiny_unet
from tests.pretend_device import PretendedDevices, PretendGenerator, PretendTensor

CUDA = torch.device("cuda:1")


@pytest.fixture
def devices() -> Iterator[PretendedDevices]:
    with PretendedDevices() as devices:
        yield devices


def ramp(device: torch.device | str = CUDA) -> Tensor:
    return torch.arange(12.0).reshape(3, 4).to(device)


MAKERS: dict[str, Callable[[], Tensor]] = {
    "rand": lambda: torch.rand(3, device="cuda:1"),
    "full": lambda: torch.full((3,), 2.0, device=CUDA),
    "tensor": lambda: torch.tensor([1.0, 2.0], device=CUDA),
    "as_tensor": lambda: torch.as_tensor([1.0, 2.0], device=CUDA),
    "to": lambda: torch.ones(3).to("cuda:1"),
    "to, keyword": lambda: torch.ones(3).to(device=CUDA, dtype=torch.float64),
    "to, like": lambda: torch.ones(3).to(ramp()),
    "cuda": lambda: torch.ones(3).cuda(1),
    "zeros_like": lambda: torch.zeros_like(ramp()),
    "new_tensor": lambda: ramp().new_tensor([1, 2]),
    "new_zeros": lambda: ramp().new_zeros(3),
    "to, dtype": lambda: ramp().to(torch.float16),
    "in place": lambda: ramp().add_(1),
    "module": lambda: nn.Linear(4, 2).to(CUDA)(ramp()),
    "copied module": lambda: copy.deepcopy(nn.Linear(4, 2).to(CUDA)).weight,
    "parameter": lambda: nn.Linear(4, 2).to(CUDA).to(torch.float16).weight,
    "detached": lambda: ramp().requires_grad_().detach(),
    "image": lambda: tv_tensors.Image(torch.rand(3, 2, 2, device=CUDA)),
}


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_tensors_say_where_they_are(maker: Callable[[], Tensor]) -> None:
    made = maker()
    assert made.device == CUDA
    assert made.is_cuda
    assert made.get_device() == 1
    assert made.cpu().device.type == "cpu"
    assert type(made.cpu()) is Tensor


@pytest.mark.usefixtures("devices")
def test_cuda_without_a_number_is_the_first_device() -> None:
    assert torch.ones(3, device="cuda").device == torch.device("cuda:0")
    assert ramp().to("cuda").device == torch.device("cuda:0")


MIXES: dict[str, Callable[[], Any]] = {
    "a tensor of the CPU": lambda: ramp() + ramp("cpu"),
    "another device": lambda: ramp() + ramp("cuda:0"),
    "a number on another device": lambda: ramp() + ramp("cuda:0").sum(),
    "matrices": lambda: ramp() @ ramp("cpu").T,
    "a list": lambda: torch.cat([ramp(), ramp("cpu")]),
    "in place": lambda: ramp("cpu").add_(ramp()),
    "a module on the CPU": lambda: nn.Linear(4, 2)(ramp()),
    "places on a device, values on the CPU": lambda: ramp("cpu")[torch.tensor([0], device=CUDA)],
    "places on another device": lambda: ramp()[torch.tensor([0], device="cuda:0")],
    "values of the CPU at places": lambda: ramp().__setitem__(torch.tensor([0], device=CUDA), torch.ones(1, 4)),
    "a generator of the CPU": lambda: torch.rand(3, device=CUDA, generator=torch.Generator()),
    "a generator of another device": lambda: torch.rand(3, device=CUDA, generator=PretendGenerator("cuda:0")),
}


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_two_devices_must_not_meet(mix: Callable[[], Any]) -> None:
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device|for generator but found"):
        mix()


@pytest.mark.usefixtures("devices")
def test_numpy_needs_a_copy_on_the_host() -> None:
    with pytest.raises(TypeError, match="can't convert cuda:1 device type tensor to numpy"):
        ramp().numpy()


#: How often the host waits, and for what.
WAITING: dict[str, tuple[int, Callable[[Tensor], Any]]] = {
    "item": (1, lambda x: x.sum().item()),
    "float": (1, lambda x: float(x.sum())),
    "int": (1, lambda x: int(x.sum())),
    "bool": (1, lambda x: bool((x > 0).all())),
    "if": (1, lambda x: 1 if x.sum() > 0 else 0),
    "tolist": (1, lambda x: x.tolist()),
    "cpu": (1, lambda x: x.cpu()),
    "to the CPU": (1, lambda x: x.to("cpu")),
    "to the CPU without waiting": (0, lambda x: x.to("cpu", non_blocking=True)),
    "to the device": (1, lambda x: torch.ones(3).to(CUDA)),
    "to the device without waiting": (0, lambda x: torch.ones(3).to(CUDA, non_blocking=True)),
    "to where it is": (0, lambda x: x.to(CUDA)),
    "to another device": (0, lambda x: x.to("cuda:0")),
    "copy_": (1, lambda x: x.copy_(torch.ones(4))),
    "tensor": (1, lambda x: torch.tensor([1, 2], device=CUDA)),
    "tensor of one number": (1, lambda x: torch.tensor(1, device=CUDA)),
    "new_tensor": (1, lambda x: x.new_tensor([1, 2])),
    "full": (0, lambda x: torch.full((3,), 2.0, device=CUDA)),
    "arange": (0, lambda x: torch.arange(3, device=CUDA)),
    "rand": (0, lambda x: torch.rand(3, device=CUDA)),
    "arithmetic": (0, lambda x: (x * 2 + torch.tensor(1.0)).softmax(1).topk(2)),
    "a row": (0, lambda x: x[1]),
    "a slice": (0, lambda x: x[:, 1:]),
    "places on the device": (0, lambda x: x[torch.arange(2, device=CUDA)]),
    "places on the CPU": (1, lambda x: x[torch.arange(2)]),
    "places in a list": (1, lambda x: x[[0, 1]]),
    "a mask": (1, lambda x: x[x > 3]),
    "one number where a mask is set": (0, lambda x: x.masked_fill(x > 3, 0)),
    "nonzero": (1, lambda x: x.nonzero()),
    "masked_select": (1, lambda x: x.masked_select(x > 3)),
    "unique": (1, lambda x: x.unique()),
    "bincount": (2, lambda x: torch.bincount(x.long().flatten(), minlength=12)),
    "repeat_interleave by a number": (0, lambda x: x.repeat_interleave(2, dim=0)),
    "repeat_interleave by a tensor": (1, lambda x: x.repeat_interleave(torch.arange(3, device=CUDA), dim=0)),
    "repeat_interleave of known size": (
        0,
        lambda x: x.repeat_interleave(torch.arange(3, device=CUDA), dim=0, output_size=3),
    ),
    "equal": (1, lambda x: torch.equal(x, x)),
    "svd": (1, lambda x: torch.linalg.svd(x)),
    "synchronize": (1, lambda x: torch.cuda.synchronize()),
}


@pytest.mark.parametrize("name", WAITING)
def test_syncs_are_counted(devices: PretendedDevices, name: str) -> None:
    wanted, call = WAITING[name]
    x = ramp()
    devices.syncs.clear()
    call(x)
    assert len(devices.syncs) == wanted, devices.syncs


@pytest.mark.usefixtures("devices")
def test_values_and_gradients_are_those_of_the_cpu() -> None:
    unet, x, steps = tiny_unet(), torch.rand(2, 3, 16, 16), torch.tensor([3, 700])
    moved = copy.deepcopy(unet).to(CUDA)
    expected = forward_and_gradients(unet, x, steps)
    found = forward_and_gradients(moved, x.to(CUDA), steps.to(CUDA))
    for name, value in expected.items():
        assert isinstance(found[name], PretendTensor)
        torch.testing.assert_close(found[name].cpu(), value, atol=1e-5, rtol=1e-4)


def forward_and_gradients(unet: nn.Module, x: Tensor, steps: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    output = unet(x, steps).sample
    weight = unet.conv_in.weight
    by_x, by_weight = torch.autograd.grad(output.square().mean(), (x, weight))
    with torch.no_grad():
        tangent = torch.func.jvp(lambda y: F.conv2d(y, weight), (x,), (torch.ones_like(x),))[1]
    return {"output": output, "by x": by_x, "by weight": by_weight, "tangent": tangent}


@pytest.mark.usefixtures("devices")
def test_a_change_in_place_is_seen_through_views() -> None:
    x = ramp()
    x[0].add_(1)
    x[:, 1] = 7
    torch.testing.assert_close(x.cpu()[0], torch.tensor([1.0, 7.0, 3.0, 4.0]))


@pytest.mark.usefixtures("devices")
def test_draws_are_those_of_a_cpu_generator_with_the_same_seed() -> None:
    drawn = torch.randn(3, device=CUDA, generator=PretendGenerator(CUDA).manual_seed(2))
    assert torch.equal(drawn.cpu(), torch.randn(3, generator=torch.Generator().manual_seed(2)))


def test_threads_see_the_devices_too(devices: PretendedDevices) -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append((ramp().device, ramp().sum().item())))
    thread.start()
    thread.join()
    assert found == [(CUDA, 66.0)]
    assert sum("_local_scalar_dense" in sync for sync in devices.syncs) == 1


def test_nothing_is_left_behind() -> None:
    before = torch.cuda.is_available, torch.cuda.current_device, threading.Thread.run
    with PretendedDevices():
        x = ramp()
    assert before == (torch.cuda.is_available, torch.cuda.current_device, threading.Thread.run)
    assert not torch.__future__.get_overwrite_module_params_on_conversion()
    assert torch.ones(2).device.type == "cpu"
    with pytest.raises(RuntimeError, match="outside of PretendedDevices"):
        x + 1
