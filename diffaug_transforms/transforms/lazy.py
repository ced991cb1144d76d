"""A score network that loads at its first use, on the device of the images, in the fastest sensible dtype."""

from __future__ import annotations

import copy
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..score import ScoreNetwork, load_score_network
from ..score.memory_format import fast_layout
from .checks import size_warning


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes it natively, float32 otherwise."""
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu":
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    else:
        native = False
    return torch.bfloat16 if native else torch.float32


class LazyNetwork:
    """Holds what a transform was given as its network, and makes it ready when it is first needed.

    It is no nn.Module, so the network shows up in no parent's parameters or state_dict. A network loaded by name is
    dropped from pickles and copies of it load again; a ScoreNetwork that was passed in travels along.

    Args:
        source: whatever ``load_score_network`` takes, or a ScoreNetwork, which is copied where its dtype must change.
        dtype: None: ``fast_dtype`` of the device.
        compile: compile the U-Net with ``torch.compile`` (the first call of each shape is slow).
        gradients: whether gradients to the images are wanted, for which another layout is fast.
    """

    def __init__(
        self, source: str | Path | ScoreNetwork, dtype: torch.dtype | None, compile: bool, gradients: bool = False
    ) -> None:
        if not isinstance(source, (str, Path, ScoreNetwork)):
            raise TypeError(f"network must be a name, a path or a ScoreNetwork. Got {type(source).__name__}")
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating point type. Got {dtype}")
        self.source = source
        self.dtype = dtype
        self.compile = compile
        self.gradients = gradients
        self._loaded: ScoreNetwork | None = source if isinstance(source, ScoreNetwork) else None
        self._ready_for: tuple[torch.device, torch.dtype] | None = None
        self._process = os.getpid()
        self._warned = False

    def metadata(self) -> ScoreNetwork:
        """The network wherever it is and in whatever dtype: for its schedule, sizes and classes. Loads it."""
        if self._loaded is None:
            with torch.inference_mode(False):
                self._loaded = load_score_network(self.source)  # type: ignore[arg-type]
        return self._loaded

    def on(self, device: torch.device) -> ScoreNetwork:
        """The network ready to run on a device. RuntimeError for CUDA in a forked process."""
        network = self.metadata()
        self._check_not_forked(network, device)
        wanted = (device, self.dtype or fast_dtype(device))
        if self._ready_for == wanted:
            return network
        # Weights made in inference mode could never take part in a gradient again.
        with torch.inference_mode(False):
            if network is self.source and wanted != (network.device, network.dtype):
                network = copy.deepcopy(network)
            self._loaded = network.to(*wanted).to(memory_format=fast_layout(device, self.gradients))
        if self.compile:
            network.unet.compile()
        network.requires_grad_(False)
        self._ready_for, self._process = wanted, os.getpid()
        return network

    def warn_of_size(self, batch: Tensor, stacklevel: int) -> None:
        """One warning, the first time that images are far from the network's size; ``stacklevel`` is the caller's."""
        message = size_warning(batch, self.metadata())
        if message and not self._warned:
            self._warned = True
            warnings.warn(message, stacklevel=stacklevel + 1)

    def move(self, fn: Any) -> None:
        """Follow a parent module's ``.to()`` or ``.cuda()`` to its device; the dtype stays our own choice."""
        if self._loaded is not None:
            self.on(fn(torch.empty(0, device=self._loaded.device)).device)

    def _check_not_forked(self, network: ScoreNetwork, device: torch.device) -> None:
        forked = network.device.type == "cuda" and os.getpid() != self._process
        if forked or (device.type == "cuda" and torch.cuda._is_in_bad_fork()):
            raise RuntimeError(
                "a CUDA network cannot run in a forked DataLoader worker. Apply DiffAug to the batch after the "
                "DataLoader, on the device, as with MixUp and CutMix; or keep network and images on the CPU in workers"
            )

    def __getstate__(self) -> dict[str, Any]:
        loaded = self.source if isinstance(self.source, ScoreNetwork) else None
        return {**vars(self), "_loaded": loaded, "_ready_for": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _process=os.getpid())

    def __repr__(self) -> str:
        if isinstance(self.source, ScoreNetwork):
            return f"<{self.source.image_size}px ScoreNetwork>"
        return repr(str(self.source))
