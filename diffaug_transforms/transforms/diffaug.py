"""DiffAug: diffuse an image to a random time, take one reverse step, get an augmented image back.

make_params: draw timesteps and noise, per sample      transform: Denoiser of the draw, deterministic
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import compress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torchvision.transforms import v2

from ..arguments import as_timesteps
from ..deprecated import renamed_attribute
from ..images import IMAGE_TYPES, batch_shape, find_labels, from_batch, to_batch
from ..score import Denoiser, ScoreNetwork
from ..score.denoiser import as_denoiser


class DiffAug(v2.Transform):
    """Diffuse each image to its own random timestep and denoise it in one step (Sastry et al., NeurIPS 2024, eq. 5).

    Takes what torchvision's v2 transforms take: PIL images, uint8 tensors, floating point tensors in [0, 1] of shape
    (..., C, H, W), tv_tensors, alone or in any structure such as (images, labels) or a dict with boxes and masks,
    which pass through untouched. Gives back the same type, shape, dtype and range. Put it after the DataLoader, on
    the device, as with MixUp and CutMix. It also works on CPU tensors inside DataLoader workers.

    Args:
        network: a card's name, a Hub repository, a local folder, an OpenAI ``.pt`` file, a ScoreNetwork, or a Denoiser.
            It is loaded at the first image, onto the images' device.
        timesteps: drawn from uniformly, per sample: a range, a list (repeats weigh), or one int. None: the network's
            own ``augment_timesteps``, which are the paper's 0...999 at 256 pixels and their match at other sizes.
        p: probability of transforming a sample. The others come back as they were and cost nothing.
        max_batch, dtype, compile, differentiable: the Denoiser's, for a network that is not a Denoiser already.
        generator: source of the draws, for reproducibility. None: torch's global one for the images' device.

    Raises:
        ValueError, TypeError: in the constructor for arguments out of range, in the call for images that are not as
            above, and at load for timesteps beyond the network's T.
        RuntimeError: a CUDA network is called inside a forked DataLoader worker.

    Example:
        >>> augment = DiffAug("cifar10")
        >>> augment(torch.rand(8, 3, 32, 32)).shape
        torch.Size([8, 3, 32, 32])
    """

    _transformed_types = IMAGE_TYPES
    max_batch = renamed_attribute("DiffAug.max_batch", "denoiser.max_batch")
    differentiable = renamed_attribute("DiffAug.differentiable", "denoiser.differentiable")

    def __init__(
        self,
        network: str | Path | ScoreNetwork | Denoiser = "cifar10",
        *,
        timesteps: Iterable[int] | int | None = None,
        p: float = 1.0,
        max_batch: int | None = None,
        dtype: torch.dtype | None = None,
        compile: bool = False,
        differentiable: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p must be in [0, 1]. Got {p}")
        self.denoiser = as_denoiser(
            network, max_batch=max_batch, dtype=dtype, compile=compile, differentiable=differentiable
        )
        self.timesteps = as_timesteps(timesteps)
        self.p = p
        self.generator = generator
        if isinstance(network, ScoreNetwork):
            network.schedule.check_timesteps(self.timesteps or ())

    @property
    def network(self) -> ScoreNetwork:
        """The score network, for its schedule, sizes and classes. Loads it if it was not."""
        return self.denoiser.network

    def forward(self, *inputs: Any) -> Any:
        """v2.Transform's walk over the inputs, and the search for the labels that conditional networks need."""
        sample = inputs if len(inputs) > 1 else inputs[0]
        flat, structure = tree_flatten(sample)
        chosen = self._needs_transform_list(flat)
        images = list(compress(flat, chosen))
        if not images:
            return sample
        params = self.make_params(images)
        if len(images) < len(flat):
            params["labels"] = find_labels(sample)
        for i in compress(range(len(flat)), chosen):
            flat[i] = self.transform(flat[i], params)
        return tree_unflatten(flat, structure)

    @torch.compiler.disable
    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw for each sample of the first image: timestep int64 (B,), noise (B, C, H, W), selected bool (B,).

        Several images of one shape in one sample share the draw. Pass the result to ``transform`` to replay it.
        """
        shape, device = batch_shape(flat_inputs[0])
        source = self.generator.device if self.generator is not None else device
        options: Any = {"generator": self.generator, "device": source}
        choices = self.denoiser.augment_timesteps if self.timesteps is None else self._checked_timesteps()
        index = torch.randint(len(choices), shape[:1], **options)
        noise = torch.randn(shape, **options)
        selected = torch.rand(shape[:1], **options) < self.p
        return {
            "timesteps": torch.tensor(choices, device=source)[index].to(device),
            "noise": noise.to(device),
            "selected": selected.to(device),
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply a draw, to all samples if it has no "selected". The same image and params give the same result."""
        batch = to_batch(inpt)
        timesteps, noise, labels = params["timesteps"], params["noise"], params.get("labels")
        selected = params.get("selected")
        if selected is None or bool(selected.all()):
            return from_batch(self.denoiser(batch, timesteps, noise, labels), inpt) if len(batch) else inpt
        index = selected.nonzero().squeeze(-1)
        labels = self.denoiser.check_labels(labels, batch)
        labels = None if labels is None else labels[index]
        views = self.denoiser(batch[index], timesteps[index], noise[index], labels)
        return from_batch(views, inpt, index)

    def denoise(self, images: Tensor, timesteps: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """The denoiser's call: ``self.denoiser(images, timesteps, noise, labels)``."""
        return self.denoiser(images, timesteps, noise, labels)

    def _checked_timesteps(self) -> tuple[int, ...]:
        """``timesteps``, which may have been set since the last image, checked against the network's T."""
        timesteps = as_timesteps(self.timesteps) or ()
        self.denoiser.network.schedule.check_timesteps(timesteps)
        return timesteps

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        steps = self.timesteps
        drawn = "None" if steps is None else str(list(steps)) if len(steps) < 12 else f"[{steps[0]}, ..., {steps[-1]}]"
        return f"{self.denoiser.extra_repr()}, timesteps={drawn}, p={self.p}"
