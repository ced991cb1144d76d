"""Denoiser: the engine. Diffuse images to their timesteps, call the network once, get denoised images back.

    images --to_signed, diffuse--> x_t --network--> pred_x0 --to_unit--> images
    [0, 1]  timesteps, noise            one call                         [0, 1]

``denoise`` is that line as one function of tensors. ``Denoiser`` is all around it: it loads the network at the first
image, makes a copy that is fast on the images' device, checks what users can get wrong, and splits large batches.
"""

from __future__ import annotations

import copy
import os
import pickle
import threading
import warnings
from collections.abc import Sequence
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import INTEGERS, as_optional_integer, check_compile, check_dtype, check_flags, shown
from ..deprecated import warn_renamed
from ..images import check_channels
from ..labels import as_labels
from ..without_waiting import LateChecks
from .functional import diffuse, in_equal_parts, prediction_to_x0, reflect_pad_to_multiple, to_signed, to_unit
from .hub import class_names_of, load_score_network
from .loading import error_of, in_own_thread
from .memory import fitting_batch
from .network import ScoreNetwork
from .preparing import MANY_IMAGES, for_many_images, for_tracing, prepare
from .timesteps import PAPER_SIZE, augment_timesteps, ensemble_timesteps

#: 64 images of 32x32 pixels: the embedded network takes 4.8 ms an image so, and 7 ms in a batch of 270 (two cores).
CPU_BATCH_PIXELS = 64 * 32 * 32
#: The defaults by their use. Each takes a schedule and a size.
MATCHED = {"augment": augment_timesteps, "ensemble": ensemble_timesteps}


def denoise(network: ScoreNetwork, images: Tensor, timesteps: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
    """DiffAug itself (Sastry et al., NeurIPS 2024, eq. 5): diffuse, take one reverse step. Tensors only: no check, no
    draw, no state.

    Args:
        network: on the images' device.
        images: float32 (B, C, H, W) in [0, 1].
        timesteps: int64 (B,) in 0...T-1.
        noise: like images, standard normal.
        labels: int64 (B,) for conditional networks, or None.

    Returns:
        float32 (B, C, H, W) in [0, 1]. Sides that the network's strides do not divide are reflect-padded before the
        network and cropped after it.
    """
    height, width = images.shape[-2:]
    x_t = diffuse(to_signed(images), timesteps, noise, network.schedule)
    if height % network.stride or width % network.stride:
        x_t = reflect_pad_to_multiple(x_t, network.stride)
    prediction, _ = network.predict(x_t, timesteps, labels)
    x_0 = prediction_to_x0(prediction, x_t, timesteps, network.schedule, network.prediction_type).clamp(-1, 1)
    return to_unit(x_0[..., :height, :width])


def diffuse_and_denoise(
    images: Tensor, timesteps: Tensor, noise: Tensor, network: ScoreNetwork, labels: Tensor | None = None
) -> Tensor:
    """Old form of ``denoise``."""
    warn_renamed(
        "diffuse_and_denoise(images, timesteps, noise, network)", "Denoiser(network)(images, timesteps, noise)"
    )
    timesteps, labels = network.check(timesteps, labels)
    return denoise(network, images, timesteps, noise, labels)


class Denoiser(nn.Module):
    """One-step denoised images from a score network that loads at the first image: what every transform here holds.

    It has no parameters and no state_dict entries, follows a parent's ``.to()`` in device, and pickles. A network that
    is passed in stays as it is: the denoiser works with copies that are frozen, in eval mode, and in the fastest
    layout. A network given by name is left out of pickles and loads again; a ScoreNetwork travels along.

    Two uses share one loaded copy if they are given one Denoiser:

        denoiser = Denoiser("cifar10")
        augment, ensemble = DiffAug(denoiser), DiffAugEnsemble(classifier, denoiser)

    Args:
        network: a card's name (see ``list_score_networks``), a Hub repository, a local folder, an OpenAI ``.pt`` file,
            or a ScoreNetwork.
        max_batch: largest batch that the network sees at once. None: on a GPU as many images as fit half of its free
            memory; on a CPU as many as fit its cache; all of them if ``differentiable``, for whose backward pass parts
            would save nothing.
        dtype: the network's. None: bfloat16 if the device is fast at it, float16 on GPUs of compute capability 7,
            float32 otherwise. Arithmetic around the network is float32. On NVIDIA GPUs PyTorch multiplies float32
            convolutions in TF32 unless ``torch.backends.cudnn.allow_tf32 = False``.
        compile: compile with ``torch.compile``: the first call of each shape is slow, later ones are faster. Or one of
            its modes: "reduce-overhead" runs CUDA graphs, for small networks on a GPU, whose kernels take less time
            than their launches.
        differentiable: let gradients flow from the output to the images through the network.
        checkpointing: recompute the U-Net's blocks in the backward pass: less memory, more time.

    Raises:
        ValueError, TypeError: in the constructor for arguments out of range, in the call for images that do not fit
            the network. RuntimeError: a CUDA network is called inside a forked DataLoader worker.

    Example:
        >>> denoiser = Denoiser("cifar10")
        >>> images = torch.rand(4, 3, 32, 32)
        >>> denoiser(images, torch.tensor([0, 100, 300, 700]), torch.randn_like(images)).shape
        torch.Size([4, 3, 32, 32])
    """

    def __init__(
        self,
        network: str | Path | ScoreNetwork = "cifar10",
        *,
        max_batch: int | None = None,
        dtype: torch.dtype | None = None,
        compile: bool | str = False,
        differentiable: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(network, (str, Path, ScoreNetwork)):
            raise TypeError(f"network must be a name, a path, a ScoreNetwork or a Denoiser. Got {shown(network)}")
        check_dtype(dtype)
        check_compile(compile)
        check_flags(differentiable=differentiable, checkpointing=checkpointing)
        self.max_batch = as_optional_integer("max_batch", max_batch, 1)
        self.dtype = dtype
        self.compile_network = compile
        self.differentiable = differentiable
        self.checkpointing = checkpointing
        # In a dict, so that the network is no submodule and shows up in no parent's parameters or state_dict.
        self._source: dict[str, Any] = {"network": network}
        self._start()

    def _start(self) -> None:
        """Nothing is loaded yet: the state of a new denoiser, and of one that comes out of a pickle."""
        self._loaded: dict[str, Any] = {}
        self._ready: dict[str, ScoreNetwork] = {}
        self._matched: dict[tuple[str, str], tuple[int, ...]] = {}
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._warned: set[str] = set()
        self._moved_to = torch.device("cpu")
        self._late_checks = LateChecks()

    @property
    def source(self) -> str | Path | ScoreNetwork:
        """What the constructor was given as ``network``."""
        return self._source["network"]

    @property
    def network(self) -> ScoreNetwork:
        """The score network, for its schedule, sizes and classes. Loads it if it was not.

        It may be on any device and in any dtype: use ``ready`` to call it.
        """
        return self.load()["network"]

    @property
    def augment_timesteps(self) -> tuple[int, ...]:
        """The network's default draw for DiffAug, computed when it loads. See also ``default_timesteps``."""
        return self.load()["augment"]

    @property
    def ensemble_timesteps(self) -> tuple[int, ...]:
        """The network's default set for the ensemble, computed when it loads. See also ``default_timesteps``."""
        return self.load()["ensemble"]

    def default_timesteps(self, use: str, shape: Sequence[int]) -> tuple[int, ...]:
        """The network's default timesteps for images of a shape (..., H, W). Loads the network.

        They depend on the shape only if the network has no size of its own. Then they are matched to the images'
        shorter side, and are the paper's from 224 pixels on.

        Args:
            use: ``"augment"`` for DiffAug's draw, ``"ensemble"`` for the ensemble's set.
        """
        loaded = self._loaded or self.load()
        if loaded["network"].image_size is not None or min(shape[-2:]) >= PAPER_SIZE:
            return loaded[use]
        # The side goes as a string, because torch.compile could not make a constant of a number.
        return self._match(use, f"{min(shape[-2:])}")

    # Kept by size. While torch.compile traces, it is called as it is.
    @torch.compiler.assume_constant_result
    def _match(self, use: str, side: str) -> tuple[int, ...]:
        if (use, side) not in self._matched:
            self._matched[use, side] = MATCHED[use](self._loaded["network"].schedule, int(side))
        return self._matched[use, side]

    def forward(self, images: Tensor, timesteps: Tensor, noise: Tensor, labels: Any = None) -> Tensor:
        """Denoised images, float32 (B, C, H, W) in [0, 1]. The arguments are ``denoise``'s, and are checked.

        Labels are for conditional networks; others leave them out.
        """
        for name, value in (("images", images), ("timesteps", timesteps), ("noise", noise)):
            if not isinstance(value, Tensor) or not value.ndim:
                raise TypeError(f"{name} must be a tensor with one entry for each image. Got {shown(value)}")
        if self._late_checks.waiting:
            self._late_checks.read()
        network = self.ready(images.device, images.shape[0])
        timesteps = self._check(network, images, timesteps, noise)
        if labels is not None or network.null_class is None:
            labels = self.check_labels(labels, images)
        images, noise = images.float(), noise.float()
        if not self.differentiable:  # the weights are frozen, so there is nothing else to keep gradients of
            images, noise = images.detach(), noise.detach()
        size = self.max_batch or self._fast_batch(network, images)
        if size is None or images.shape[0] <= size:
            return denoise(network, images, timesteps, noise, labels) if images.shape[0] else images
        core = partial(denoise, network)
        return in_equal_parts(core, size, bool(self.compile_network), images, timesteps, noise, labels)

    def ready(self, device: torch.device | str, batch: int = 1) -> ScoreNetwork:
        """The copy of the network that runs on a device: frozen, in eval mode, in this denoiser's dtype and layout.

        Copies are kept by device and options, and are never moved. On a CPU there is one for few and one for many
        images, and everywhere one for programs that are compiled or exported. They share their weights. RuntimeError
        for CUDA in a forked process.
        """
        device, tracing = torch.device(device), torch.compiler.is_compiling()
        if device.type == "cuda" and not tracing:
            self._check_not_forked(device)
            if device.index is None:
                device = torch.device("cuda", torch.cuda.current_device())
        kind = "traced" if tracing else "many" if device.type == "cpu" and batch >= MANY_IMAGES else "few"
        if torch.compiler.is_dynamo_compiling() and (error := self._error_of_preparing(device)):
            raise RuntimeError(error)
        return self._ready.get(self._key(device, kind)) or in_own_thread(self._prepare, device, kind)

    def _fast_batch(self, network: ScoreNetwork, images: Tensor) -> int | None:
        """How many images to give the network at once if nobody says so; None: all.

        In a compiled or exported program all, because parts would fix the size of the batch.
        """
        if images.device.type == "cpu" and not torch.compiler.is_compiling():
            return max(1, CPU_BATCH_PIXELS // max(images.shape[-2] * images.shape[-1], 1))
        if images.device.type != "cuda" or self.differentiable or torch.compiler.is_compiling():
            return None
        return fitting_batch(network, images)

    def load(self) -> dict[str, Any]:
        """Load the network if it was not, with the defaults that it implies. Called at the first image."""
        if torch.compiler.is_dynamo_compiling() and (error := self._error_of_loading()):
            raise RuntimeError(error)
        return self._loaded or in_own_thread(self._load)

    # torch.compile(denoiser) calls this with the first inputs before it traces, as it does for torch's lazy modules. So
    # errors of loading keep their names even with fullgraph=True.
    _initialize_hook = True

    def _infer_parameters(self, *_: Any) -> None:
        self.load()

    # While torch.compile traces, it calls the next two functions as they are and does not look into them. So there is
    # something to trace afterwards, or an error to show.
    @torch.compiler.assume_constant_result
    def _error_of_loading(self) -> str | None:
        return None if self._loaded else error_of(in_own_thread, self._load)

    @torch.compiler.assume_constant_result
    def _error_of_preparing(self, device: torch.device) -> str | None:
        found = self._key(device, "traced") in self._ready
        return None if found else error_of(in_own_thread, self._prepare, device, "traced")

    def _load(self) -> dict[str, Any]:
        with self._lock:
            if not self._loaded:
                source = self.source
                network = source if isinstance(source, ScoreNetwork) else load_score_network(source)
                defaults = {use: match(network.schedule, network.image_size) for use, match in MATCHED.items()}
                self._loaded = {"network": network, **defaults}
            return self._loaded

    def _prepare(self, device: torch.device, kind: str) -> ScoreNetwork:
        key = self._key(device, kind)
        with self._lock:
            if key not in self._ready:
                self._load()
                self._check_not_forked(device)
                options = (self.dtype, self.differentiable, self.checkpointing)
                few = prepare(self._own_copy(), device, *options) if kind == "few" else self._prepare(device, "few")
                ready = for_many_images(few) if kind == "many" else few
                if self.compile_network or kind == "traced":
                    ready = for_tracing(ready)
                if self.compile_network:
                    ready.unet.compile(mode=None if self.compile_network is True else self.compile_network)
                self._ready[key] = ready
            return self._ready[key]

    def _key(self, device: torch.device, kind: str) -> str:
        """The options of a copy. A string, because torch.compile cannot guard on a dict with devices for keys."""
        return f"{device} {self.dtype} {self.differentiable} {self.checkpointing} {self.compile_network} {kind}"

    def _own_copy(self) -> ScoreNetwork:
        """A network that nobody else holds. A large one loaded by name is not kept twice for its first device."""
        source = self.source
        if isinstance(source, ScoreNetwork):
            return copy.deepcopy(source)
        return load_score_network(source) if self._ready else self._loaded["network"]

    def warn_of_size(self, images: Tensor, stacklevel: int = 1) -> None:
        """One warning each: images are more than twice as large or small as the network's, or still on the CPU after
        ``.to("cuda")``.
        """
        height, width = images.shape[-2:]
        native, moved_to = self._loaded["network"].image_size, self._moved_to
        messages = {}
        if native is not None and max(height, width, native) > 2 * min(height, width, native):
            messages["size"] = (
                f"images of {height}x{width} pixels are far from the network's {native}x{native}; "
                "resize them or choose another network: 'photos' takes any size, list_score_networks() lists others"
            )
        if images.device.type == "cpu" != moved_to.type:
            messages["device"] = (
                f"the network was moved to {moved_to}, but it runs on the cpu, where the images are; "
                f'move them too: images.to("{moved_to}")'
            )
        for kind in messages.keys() - self._warned:
            self._warned.add(kind)
            warnings.warn(messages[kind], stacklevel=stacklevel + 1)

    def _check(self, network: ScoreNetwork, images: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """The timesteps, checked and on the images' device."""
        if images.ndim != 4 or not images.is_floating_point() or 0 in images.shape[1:]:
            got = f"{images.dtype} of shape {tuple(images.shape)}"
            raise ValueError(f"images must be floating point (B, C, H, W) with at least one pixel. Got {got}")
        if images.shape[1] != network.in_channels:
            check_channels(images, network.in_channels)
        if noise.shape != images.shape:
            shapes = f"{tuple(noise.shape)}. Got {tuple(images.shape)}"
            raise ValueError(f"images must have the shape of the noise, {shapes}")
        if not noise.is_floating_point():
            raise TypeError(f"noise must be a floating point tensor. Got {noise.dtype}")
        if timesteps.shape != images.shape[:1] or timesteps.dtype not in INTEGERS:
            got = f"{timesteps.dtype} of shape {tuple(timesteps.shape)}"
            raise ValueError(f"timesteps must be int64, one for each of the {images.shape[0]} images. Got {got}")
        if torch.compiler.is_compiling():
            return timesteps
        if noise.device != images.device:
            raise ValueError(f"noise must be on the images' device, {images.device}. Got {noise.device}")
        self.warn_of_size(images, stacklevel=4)
        if not timesteps.device.type == images.device.type == "cpu":
            return network.schedule.checked(timesteps, images.device, self._late_checks)
        steps, taken = timesteps.tolist(), network.schedule.timesteps
        if steps and not (min(steps) >= taken[0] and max(steps) <= taken[-1]):
            network.schedule.check_timesteps(steps)
        return timesteps

    def check_labels(self, labels: Any, images: Tensor) -> Tensor | None:
        """The labels as the network takes them, int64 (B,), or None if it takes none. ValueError if it needs others."""
        num_classes, null_class = self.network.num_classes, self.network.null_class
        if num_classes is None or (labels is None and null_class is not None):
            return None
        if labels is None:
            needs = f"this network needs labels in 0...{num_classes - 1}: it has no null class"
            raise ValueError(f"{needs}. DiffAug(network, conditional=True) takes them from (images, labels)")
        names = class_names_of(self.source)
        return as_labels(labels, len(images), images.device, num_classes, self._late_checks, names)

    def _check_not_forked(self, device: torch.device) -> None:
        forked = os.getpid() != self._process and self.network.device.type == "cuda"
        if forked or (device.type == "cuda" and torch.cuda._is_in_bad_fork()):
            raise RuntimeError(
                "a CUDA network cannot run in a forked DataLoader worker. Apply DiffAug to the batch after the "
                "DataLoader, on the device, as with MixUp and CutMix; or keep network and images on the CPU in workers"
            )

    def _apply(self, fn: Any, recurse: bool = True) -> Denoiser:
        """Make the network ready on the device that a parent moves to. The dtype stays our own choice."""
        self._moved_to = fn(torch.empty(0, device=self._moved_to)).device
        if self._loaded or isinstance(self.source, ScoreNetwork):
            self.ready(self._moved_to)
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        dropped = ("_loaded", "_ready", "_matched", "_process", "_lock", "_warned", "_moved_to", "_late_checks")
        return {name: value for name, value in vars(self).items() if name not in dropped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._start()

    def extra_repr(self) -> str:
        source = self.source
        if not isinstance(source, ScoreNetwork):
            return repr(str(source))
        return "<ScoreNetwork of any size>" if source.image_size is None else f"<{source.image_size}px ScoreNetwork>"


# A worker process gets a denoiser in one piece. PyTorch would open a file for each weight of a network that was passed
# in, and a forkserver takes at most 256.
ForkingPickler.register(Denoiser, lambda denoiser: (pickle.loads, (pickle.dumps(denoiser),)))


def as_denoiser(network: str | Path | ScoreNetwork | Denoiser, **options: Any) -> Denoiser:
    """A Denoiser as it is; of anything else one with these options. ValueError for options beside a Denoiser."""
    if not isinstance(network, Denoiser):
        return Denoiser(network, **options)
    given = [name for name, value in options.items() if value not in (None, False)]
    if given:
        raise ValueError(f"{', '.join(given)} must be given to the Denoiser itself: Denoiser(network, {given[0]}=...)")
    return network
