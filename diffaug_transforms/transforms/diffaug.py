"""DiffAug: diffuse an image to a random time, take one reverse step, get an augmented image back.

make_params: draw timesteps and noise, per sample      transform: Denoiser of the draw, deterministic
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from ..arguments import as_number, as_timesteps, check_flags, check_generator
from ..deprecated import renamed_attribute
from ..images import batch_shape, from_batch, to_batch, transform_sample
from ..labels import LabelsGetter, as_labels_getter
from ..score import Denoiser, ScoreNetwork
from ..score.denoiser import as_denoiser
from ..without_waiting import LateChecks, kept_on, send
from .workers import pack_generator, unpack_generator, worker_generator

#: If p < 1 and the network is compiled, it gets a multiple of so many images, or all.
BATCH_MULTIPLE = 8


class DiffAug(v2.Transform):
    """Diffuse each image to its own random timestep and denoise it in one step (Sastry et al., NeurIPS 2024, eq. 5).

    Takes PIL images (RGB), uint8 tensors and floating point tensors in [0, 1] of shape (..., C, H, W), tv_tensors, and
    NumPy arrays (..., H, W, C): alone, in a list with a draw for each, or in any structure such as (images, labels) or
    a dict with boxes and masks, which pass through untouched. Gives back the same type, shape, dtype and range. Each
    image of a batch and each frame of a video has its own draw. Put it after the DataLoader, on the device, as with
    MixUp and CutMix. It also works on CPU tensors inside DataLoader workers.

    What is an image follows torchvision's v2: every PIL image, ``tv_tensors.Image`` and ``tv_tensors.Video``; if there
    is none, the first plain tensor or array that has three dimensions or more. A PIL image of one band beside images of
    more is a mask.

    On a GPU the range of floating point images is checked without waiting for it, so its error comes in a later call.

    Args:
        network: a card's name, a Hub repository, a local folder, an OpenAI ``.pt`` file, a ScoreNetwork, or a Denoiser.
            It is loaded at the first image, onto the images' device.
        timesteps: drawn from uniformly, per sample: a range, a list (repeats weigh), or one int. None: the network's
            own ``augment_timesteps``, which are the paper's 0...999 at 256 pixels and their match at other sizes. For
            a network of any size they are matched to the images' shorter side, and are the paper's from 224 pixels on.
        p: probability of transforming a sample. The others come back as they were and cost nothing.
        conditional: give the network each image's label. False: nothing in a sample is read as a label, and a network
            with classes uses its null class.
        labels_getter: finds the labels if ``conditional``, as in ``v2.MixUp``: a callable from the sample to integers,
            one for each image, or "default": the second entry of a tuple, or a dict's entry named like "label".
        max_batch, dtype, compile, differentiable: the Denoiser's, for a network that is not a Denoiser already.
        generator: source of the draws, for reproducibility. None: torch's global one for the images' device. Each
            DataLoader worker draws from one of its own, made from this one and the worker's seed.

    Raises:
        ValueError, TypeError: in the constructor for arguments out of range, in the call for images that are not as
            above, for a sample without an image, for missing or unfit labels if ``conditional``, and at load for
            timesteps beyond the network's T.
        RuntimeError: a CUDA network is called inside a forked DataLoader worker.

    Example:
        >>> augment = DiffAug("cifar10")
        >>> augment(torch.rand(8, 3, 32, 32)).shape
        torch.Size([8, 3, 32, 32])
    """

    max_batch = renamed_attribute("DiffAug.max_batch", "denoiser.max_batch")
    differentiable = renamed_attribute("DiffAug.differentiable", "denoiser.differentiable")

    def __init__(
        self,
        network: str | Path | ScoreNetwork | Denoiser = "cifar10",
        *,
        timesteps: Iterable[int] | int | None = None,
        p: float = 1.0,
        conditional: bool = False,
        labels_getter: LabelsGetter = "default",
        max_batch: int | None = None,
        dtype: torch.dtype | None = None,
        compile: bool | str = False,
        differentiable: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_flags(conditional=conditional)
        check_generator(generator)
        self.p = as_number("p", p, at_least=0, at_most=1)
        self.conditional = conditional
        self.labels_getter = as_labels_getter(labels_getter)
        if labels_getter is None and conditional:
            raise ValueError("conditional=True needs a labels_getter. Got None")
        self.denoiser = as_denoiser(
            network, max_batch=max_batch, dtype=dtype, compile=compile, differentiable=differentiable
        )
        self.timesteps = as_timesteps(timesteps)
        self.generator = generator
        self._late_checks = LateChecks()
        if isinstance(network, ScoreNetwork):
            network.schedule.check_timesteps(self.timesteps or ())

    @property
    def network(self) -> ScoreNetwork:
        """The score network, for its schedule, sizes and classes. Loads it if it was not."""
        return self.denoiser.network

    def forward(self, *inputs: Any) -> Any:
        """The inputs with their images augmented. Everything else in them comes back as the same objects."""
        sample = inputs if len(inputs) > 1 else inputs[0]
        return transform_sample(self, sample, self._find_labels(sample) if self.conditional else None)

    def _find_labels(self, sample: Any) -> Any:
        """The labels in a sample, for a network that takes labels."""
        if self.network.num_classes is None:
            raise ValueError(f"conditional=True needs a network with classes. Got {self.denoiser.extra_repr()}")
        labels = self.labels_getter(sample) if self.labels_getter else None
        if labels is None:
            raise ValueError("conditional=True needs labels, and labels_getter found none: pass (images, labels)")
        return labels

    @torch.compiler.disable
    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw for each image of the first batch: timestep int64 (B,), noise (B, C, H, W), selected bool (B,) if p < 1.

        Pass the result to ``transform`` to replay it.
        """
        shape, device = batch_shape(flat_inputs[0])
        generator = None if self.generator is None else worker_generator(self)
        source = device if generator is None else generator.device
        options: Any = {"generator": generator, "device": source}
        default = self.timesteps is None
        choices = self.denoiser.default_timesteps("augment", shape) if default else self._checked_timesteps()
        index = torch.randint(len(choices), shape[:1], **options)
        noise = torch.randn(shape, **options)
        table = torch.tensor(choices) if source.type == "cpu" else kept_on(choices, torch.int64, source)
        params = {"timesteps": table[index], "noise": noise}
        if source != device:
            params = {name: send(drawn, device) for name, drawn in params.items()}
        if self.p == 1:
            return params
        # On the host if nothing speaks against it: the host has to know how many images the network gets.
        place = source if generator is not None else "cpu"
        return {**params, "selected": torch.rand(shape[:1], generator=generator, device=place) < self.p}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply a draw, to all images if it has no "selected". The same image and params give the same result.

        ``params`` may hold "labels", one integer for each image.
        """
        batch = to_batch(inpt, self._late_checks)
        timesteps, noise, labels = params["timesteps"], params["noise"], params.get("labels")
        selected = params.get("selected")
        if selected is None:
            return from_batch(self.denoiser(batch, timesteps, noise, labels), inpt) if len(batch) else inpt
        index = selected.nonzero().squeeze(-1)
        given = index
        if self.denoiser.compile_network:  # again for new sizes, so a few of the others fill the batch up
            others = (~selected).nonzero().squeeze(-1)
            given = torch.cat([index, others[: -len(index) % BATCH_MULTIPLE]])
        index, given = send(index, batch.device), send(given, batch.device)
        labels = self.denoiser.check_labels(labels, batch)
        labels = None if labels is None else labels[given]
        views = self.denoiser(batch[given], timesteps[given], noise[given], labels)
        return from_batch(views[: len(index)], inpt, index)

    def denoise(self, images: Tensor, timesteps: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """The denoiser's call: ``self.denoiser(images, timesteps, noise, labels)``."""
        return self.denoiser(images, timesteps, noise, labels)

    def _checked_timesteps(self) -> tuple[int, ...]:
        """``timesteps``, which may have been set since the last image, checked against the network's T."""
        timesteps = as_timesteps(self.timesteps) or ()
        self.denoiser.network.schedule.check_timesteps(timesteps)
        return timesteps

    def __getstate__(self) -> dict[str, Any]:
        return pack_generator(dict(vars(self)))

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(unpack_generator(state))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        steps = self.timesteps
        drawn = "None" if steps is None else str(list(steps)) if len(steps) < 12 else f"[{steps[0]}, ..., {steps[-1]}]"
        return f"{self.denoiser.extra_repr()}, timesteps={drawn}, p={self.p}"
