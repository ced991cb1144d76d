"""CUDA devices that are only pretended: where tensors are and how often the host waits for them, without a GPU.

    with PretendedDevices() as devices:
        images = torch.rand(8, 3, 16, 16, device="cuda:1")    # computed on the CPU, says that it is on cuda:1
        images + torch.rand(8, 3, 16, 16)                     # RuntimeError: a tensor of the CPU meets one of cuda:1
        images.mean().item()                                  # the host waits for the device
    devices.syncs                                             # ["_local_scalar_dense at <file>:<line>"]

What counts as a sync is what ``torch.cuda.set_sync_debug_mode`` reports on a real device: values that are read, copies
between host and device unless ``non_blocking``, and operations whose result has a size that depends on values. A copy
of one number, as in ``torch.tensor(3, device="cuda")``, waits like a large one. Tensors of no dimensions on the CPU
are scalars to CUDA, and may meet tensors of any device.

Limits: kernels are the CPU's, so no numbers of a GPU are seen here. Random draws are those of the CPU's generators.
Autocast for "cuda" has no effect on pretended tensors, and torch.compile does not take them.

How it works: to PyTorch's C++ code a tensor of cuda:1 is one of the device "meta:1", which needs no driver, not even
for gradients. Python code sees ``device`` as cuda:1. A mode for functions rewrites "cuda" in their arguments. A mode
for operations runs each on the CPU tensors inside.
"""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

#: How often an operation waits for the device, if its arguments do not matter. ``bincount`` reads the least and the
#: largest value. The decompositions read whether they converged.
WAITS = {
    **dict.fromkeys(("_local_scalar_dense", "equal", "nonzero", "masked_select", "histc"), 1),
    **dict.fromkeys(("_unique", "_unique2", "unique_dim", "unique_consecutive", "_linalg_svd", "_linalg_eigh"), 1),
    "bincount": 2,
}
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put")
MASKS = (torch.bool, torch.uint8)
#: Functions that make a tensor from values of the host.
FROM_VALUES = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)


class PretendTensor(Tensor):
    """A tensor that says it is on a CUDA device. ``cpu_tensor`` holds its values."""

    cpu_tensor: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, cpu_tensor: Tensor, index: int) -> PretendTensor:
        options: Any = {"dtype": cpu_tensor.dtype, "layout": cpu_tensor.layout, "device": torch.device("meta", index)}
        size, strides, offset = cpu_tensor.shape, cpu_tensor.stride(), cpu_tensor.storage_offset()
        tensor = Tensor._make_wrapper_subclass(cls, size, strides, offset, **options)
        tensor.cpu_tensor = cpu_tensor.detach()
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} was called with a pretended tensor outside of PretendedDevices")

    def as_subclass(self, cls: type) -> Tensor:
        """A pretended ``tv_tensors.Image``, or a plain tensor again. No gradient would pass, so there must be none."""
        if self.requires_grad:
            raise NotImplementedError("a pretended tensor that requires gradients stays of its own class")
        kind = cls if issubclass(cls, PretendTensor) else PretendTensor
        if kind is PretendTensor and cls is not Tensor:
            kind = type(cls.__name__, (PretendTensor, cls), {})
        return PretendTensor.__new__(kind, self.cpu_tensor, self.index)

    @property
    def index(self) -> int:
        """The number of the device."""
        return torch.Tensor.get_device(self)

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", self.index)

    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first")
        return self.detach().cpu().numpy()

    __array__ = numpy

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied = PretendTensor(self.cpu_tensor.clone(), self.index).requires_grad_(self.requires_grad)
        memo[id(self)] = nn.Parameter(copied, self.requires_grad) if isinstance(self, nn.Parameter) else copied
        return memo[id(self)]

    def __repr__(self, **_: Any) -> str:
        return f"PretendTensor({self.cpu_tensor!r}, device={str(self.device)!r})"


class PretendGenerator(torch.Generator):
    """A generator that says it is on a CUDA device. Its draws are those of a CPU generator with the same seed."""

    def __new__(cls, device: torch.device | str) -> PretendGenerator:
        return super().__new__(cls, "cpu")

    def __init__(self, device: torch.device | str) -> None:
        self.pretended = torch.device(device)

    @property
    def device(self) -> torch.device:
        return self.pretended


class PretendEvent:
    """An event that has always happened: the CPU has computed all that came before."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return True


class PretendedDevices:
    """The context in which the devices cuda:0 and cuda:1 exist, also in threads that start inside.

    Attributes:
        syncs: one entry for each time that the host waited: the operation, and the line of the package that called it.
    """

    def __init__(self) -> None:
        self.syncs: list[str] = []
        self._stack = ExitStack()

    def __enter__(self) -> PretendedDevices:
        answers: dict[str, Any] = {
            "is_available": lambda: True,
            "device_count": lambda: 2,
            "current_device": lambda: 0,
            "get_device_capability": lambda device=None: (8, 0),
            "_is_in_bad_fork": lambda: False,
            "is_current_stream_capturing": lambda: False,
            "synchronize": lambda device=None: self.wait("synchronize"),
        }
        for name, answer in answers.items():
            self._stack.enter_context(patch.object(torch.cuda, name, answer))
        self._stack.enter_context(patch.object(torch, "Event", PretendEvent))
        # Modules get new parameters when they move. A parameter's ``data`` would leave ``cpu_tensor`` as it was.
        overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        self._stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        self._stack.enter_context(patch.object(threading.Thread, "run", self._run_of_thread()))
        self._stack.enter_context(_Functions())
        self._stack.enter_context(_Operations(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def _run_of_thread(self) -> Any:
        """``Thread.run`` with this context's modes, because modes hold for one thread."""
        run = threading.Thread.run

        def run_with_modes(thread: threading.Thread) -> None:
            with _Functions(), _Operations(self):
                run(thread)

        return run_with_modes

    def wait(self, operation: str, times: int = 1) -> None:
        """Count the host's waiting for a device."""
        self.syncs.extend([f"{operation} at {calling_line()}"] * times)


def calling_line() -> str:
    """The innermost line of the package that is running now, or "the test"."""
    frame: Any = sys._getframe()
    while frame is not None:
        _, found, file = frame.f_code.co_filename.rpartition("diffaug_transforms/")
        if found:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return "the test"


def to_internal(argument: Any) -> Any:
    """A device or the name of one as C++ shall see it: cuda:1 as meta:1. Anything else as it is."""
    if isinstance(argument, str) and argument.startswith("cuda"):
        argument = torch.device(argument)
    if isinstance(argument, torch.device) and argument.type == "cuda":
        return torch.device("meta", argument.index or 0)
    return argument


class _Functions(TorchFunctionMode):
    """Rewrites the devices in the arguments of PyTorch's functions."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        check_generator(kwargs)
        if func is Tensor.pin_memory:  # which needs a driver
            return args[0]
        if func is Tensor.cuda:
            func, args = Tensor.to, (args[0], torch.device("cuda", args[1] if len(args) > 1 else 0))
        if func is Tensor.to:
            args = tuple(to_internal(argument) for argument in args)
        if "device" in kwargs:
            kwargs["device"] = to_internal(kwargs["device"])
        if func in FROM_VALUES:
            return from_values(func, args, kwargs)
        return func(*args, **kwargs)


def from_values(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    """A tensor of values of the host: first on the CPU, then copied, as on a real device."""
    device = kwargs.pop("device", None)
    if func is Tensor.new_tensor:
        func, like, args = torch.tensor, args[0], args[1:]
        kwargs = {"dtype": like.dtype, **kwargs}
        device = to_internal(like.device) if device is None else device
    elif isinstance(args[0], PretendTensor):
        return args[0].to(device=device, dtype=kwargs.get("dtype"))
    made = func(*args, **kwargs)
    return made if device is None else made.to(device)


def check_generator(kwargs: dict[str, Any]) -> None:
    """RuntimeError if a generator draws a tensor of another device, as on a real device."""
    generator, device = kwargs.get("generator"), kwargs.get("device")
    if generator is None or device is None:
        return
    device = torch.device(device)
    if (generator.device.type, generator.device.index or 0) != (device.type, device.index or 0):
        raise RuntimeError(f"Expected a '{device}' device type for generator but found '{generator.device}'")


class _Operations(TorchDispatchMode):
    """Runs operations on the CPU tensors inside of pretended ones. Counts syncs, and raises if two devices meet."""

    def __init__(self, devices: PretendedDevices) -> None:
        super().__init__()
        self.devices = devices

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), func.__name__.partition(".")[0]
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        pretended = {id(x.cpu_tensor): x for x in tensors if isinstance(x, PretendTensor)}
        wanted = kwargs.get("device")
        if not pretended and (wanted is None or wanted.type != "meta"):
            return func(*args, **kwargs)
        if name in ("_to_copy", "copy_"):
            source, target = index_of(tensors[-1]), index_of(tensors[0] if wanted is None else wanted)
            non_blocking = kwargs.get("non_blocking") or args[2:3] == (True,)
            if (source is None) != (target is None) and not non_blocking and tensors[-1].numel():
                self.devices.wait("copy to the host" if target is None else "copy to the device")
        else:
            check_devices(func, tensors, args[1] if name in INDEXING else ())
            self._count(name, args, kwargs)
            target = index_of(next(iter(pretended.values())) if wanted is None else wanted)
        if wanted is not None:
            kwargs["device"] = torch.device("cpu")
        if name == "_efficientzerotensor":  # zeros without memory, which only C++ can use
            func = torch.ops.aten.zeros.default
        args, kwargs = tree_map(lambda x: x.cpu_tensor if isinstance(x, PretendTensor) else x, (args, kwargs))
        result = func(*args, **kwargs)
        return result if target is None else tree_map(lambda x: as_pretended(x, target, pretended), result)

    def _count(self, name: str, args: Any, kwargs: dict[str, Any]) -> None:
        """Count the syncs of an operation that copies nothing."""
        if name in WAITS:
            self.devices.wait(name, WAITS[name])
        elif name == "repeat_interleave" and kwargs.get("output_size") is None:
            self.devices.wait(name)
        elif name in INDEXING:
            indices = [index for index in args[1] if index is not None]
            masks = [index for index in indices if index.dtype in MASKS]
            # One number put where a mask is set needs no list of places.
            is_fill = "put" in name and len(indices) == 1 and args[2].numel() == 1
            if masks and not is_fill:
                self.devices.wait(f"{name} with a mask", len(masks))
            if hosts := sum(not isinstance(index, PretendTensor) for index in indices):
                self.devices.wait(f"{name} with places on the CPU", hosts)


def index_of(place: Tensor | torch.device) -> int | None:
    """The number of a pretended device, or of a tensor's; None for the CPU."""
    if isinstance(place, Tensor):
        return place.index if isinstance(place, PretendTensor) else None
    return place.index if place.type == "meta" else None


def as_pretended(result: Any, index: int, wrappers: dict[int, PretendTensor]) -> Any:
    """What an operation returns: the tensor that it changed in place, or a new one. Anything else as it is."""
    if not isinstance(result, Tensor):
        return result
    return wrappers[id(result)] if id(result) in wrappers else PretendTensor(result, index)


def check_devices(func: Any, tensors: list[Tensor], places: Any) -> None:
    """RuntimeError if tensors of several devices meet. On the CPU, only numbers and places in a tensor are allowed."""
    hosts = [x for x in tensors if not isinstance(x, PretendTensor) and x.ndim and all(x is not y for y in places)]
    found = {str(x.device) for x in [*hosts, *(x for x in tensors if isinstance(x, PretendTensor))]}
    if len(found) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {sorted(found)} in {func}")
