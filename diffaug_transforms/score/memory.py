"""How many images fit a GPU's free memory in one call of a network."""

from __future__ import annotations

from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.func import functional_call
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .network import ScoreNetwork
from .timesteps import PAPER_SIZE

#: No smaller batch is divided.
SMALL_BATCH_PIXELS = 256 * 256
#: The share of the free memory that the network's tensors may take. The rest is for what its kernels work with, for
#: the gaps between tensors, and for the views and the classifier.
MEMORY_SHARE = 0.5
#: Bytes are counted for this many images. Tensors that do not grow with the batch then matter little.
COUNTED = 8

_measured: WeakKeyDictionary[ScoreNetwork, float] = WeakKeyDictionary()


def fitting_batch(network: ScoreNetwork, images: Tensor) -> int | None:
    """How many of the images (B, C, H, W), on CUDA, the network takes at once without gradients; None: all.

    Their tensors fit ``MEMORY_SHARE`` of the memory that is free now.
    """
    pixels = images.shape[-2] * images.shape[-1]
    if len(images) * pixels <= SMALL_BATCH_PIXELS or not (bytes_each := pixels * bytes_of_a_pixel(network)):
        return None
    fitting = int(MEMORY_SHARE * free_bytes(images.device) / bytes_each)
    return max(1, fitting) if fitting < len(images) else None


def free_bytes(device: torch.device) -> int:
    """What a GPU has left: memory that nobody took, and memory that PyTorch holds without using it."""
    unused: int = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def bytes_of_a_pixel(network: ScoreNetwork) -> float:
    """The most memory that a call's tensors take at once, without gradients, for each pixel of its images.

    It is counted once for a network, on the meta device, where nothing is computed. 0 for a network that does not run
    there.
    """
    if network not in _measured:
        try:
            _measured[network] = _count_bytes(network)
        except Exception:  # whatever a user's own U-Net does on a device without values
            _measured[network] = 0.0
    return _measured[network]


def _count_bytes(network: ScoreNetwork) -> float:
    side = -(-(network.image_size or PAPER_SIZE) // network.stride) * network.stride
    guided = network.null_class is not None and network.guidance_scale not in (0, 1)
    held = chain(network.unet.named_parameters(), network.unet.named_buffers())
    weights = {name: torch.empty_like(value, device="meta") for name, value in held}
    x_t = torch.empty(COUNTED, network.in_channels, side, side, dtype=network.dtype, device="meta")
    index = torch.zeros(COUNTED, dtype=torch.int64, device="meta")
    labels = None if network.num_classes is None else index
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), LiveBytes() as counter:
        functional_call(network.unet, weights, (x_t, index, labels))
    return (1 + guided) * counter.peak / (COUNTED * side**2)


class LiveBytes(TorchDispatchMode):
    """The most bytes that the tensors made under it took at one time, as ``peak``. Views count once."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.live.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.live = {key: entry for key, entry in self.live.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return result
