"""DiffAug: diffuse an image to a random time, take one reverse step, get an augmented image back."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..score import ScoreNetwork, diffuse_and_denoise
from ..score.memory_format import fast_batch
from .checks import (
    as_labels,
    as_timesteps,
    batch_shape,
    check_channels,
    check_max_batch,
    find_labels,
    from_float,
    restore,
    to_float,
    to_pixels,
)
from .lazy import LazyNetwork


class DiffAug(v2.Transform):
    """Diffuse each image to its own random timestep and denoise it in one step (Sastry et al., NeurIPS 2024, eq. 5).

    Takes what torchvision's v2 transforms take: PIL images, uint8 tensors, floating point tensors in [0, 1] of shape
    (..., C, H, W), tv_tensors, alone or in any structure such as (images, labels) or a dict with boxes and masks,
    which pass through untouched. Gives back the same type, shape, dtype and range. Put it after the DataLoader, on
    the device, as with MixUp and CutMix; it also works on CPU tensors inside DataLoader workers.

    Args:
        network: a card's name, a Hub repository, a local folder, an OpenAI ``.pt`` file, or a ScoreNetwork. Loaded at
            the first image, onto the images' device.
        timesteps: drawn from uniformly, per sample: a range, a list (repeats weigh), one int. None: the network's own
            ``augment_timesteps``, which are the paper's 0...999 at 256 pixels and their match at other sizes.
        p: probability of transforming a sample; the others come back as they were and cost nothing.
        max_batch: largest batch the network sees at once; None: all of it, on a CPU as many as fit its cache.
        dtype: the network's; None: bfloat16 where the device is fast at it, float32 otherwise. Arithmetic around it is
            float32.
        compile: compile the network with ``torch.compile``: slow first call, faster later ones.
        differentiable: let gradients flow from the output to the images through the network.
        generator: source of the draws, for reproducibility; None: torch's global one of the images' device.

    Raises:
        ValueError, TypeError: in the constructor for arguments out of range, in the call for images that are not as
            above, and at load for timesteps beyond the network's T.
        RuntimeError: a CUDA network is called inside a forked DataLoader worker.

    Example:
        >>> augment = DiffAug("cifar10")
        >>> augment(torch.rand(8, 3, 32, 32)).shape
        torch.Size([8, 3, 32, 32])
    """

    _transformed_types = (v2._utils.is_pure_tensor, tv_tensors.Image, PIL.Image.Image)

    def __init__(
        self,
        network: str | Path | ScoreNetwork = "cifar10",
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
        check_max_batch(max_batch)
        self.timesteps = as_timesteps(timesteps)
        self.p = p
        self.max_batch = max_batch
        self.differentiable = differentiable
        self.generator = generator
        self._network = LazyNetwork(network, dtype, compile, gradients=differentiable)
        self._drawn_from: Tensor | None = None
        if isinstance(network, ScoreNetwork):
            network.schedule.check_timesteps(self.timesteps or ())

    @property
    def network(self) -> ScoreNetwork:
        """The score network, loaded if it was not, where it last ran and in the dtype it last ran in."""
        return self._network.metadata()

    def forward(self, *inputs: Any) -> Any:
        """v2.Transform's walk over the inputs, with the labels that conditional networks need."""
        sample = inputs if len(inputs) > 1 else inputs[0]
        flat, structure = tree_flatten(sample)
        chosen = self._needs_transform_list(flat)
        images = [item for item, is_image in zip(flat, chosen) if is_image]
        if not images:
            return sample
        params = self.make_params(images)
        if self.network.num_classes is not None:
            params["labels"] = find_labels(sample)
        flat = [self.transform(item, params) if is_image else item for item, is_image in zip(flat, chosen)]
        return tree_unflatten(flat, structure)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw for each sample of the first image: timestep int64 (B,), noise (B, C, H, W), selected bool (B,).

        Several images of one shape in one sample share the draw. Pass the result to ``transform`` to replay it.
        """
        shape, device = batch_shape(flat_inputs[0])
        source = self.generator.device if self.generator is not None else device
        options: Any = {"generator": self.generator, "device": source}
        choices = self._choices().to(source)
        index = torch.randint(len(choices), shape[:1], **options)
        noise = torch.randn(shape, **options)
        selected = torch.rand(shape[:1], **options) < self.p
        return {
            "timesteps": choices[index].to(device),
            "noise": noise.to(device),
            "selected": selected.to(device),
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply a draw, to all samples where it has no "selected". The same image and params give the same result."""
        pixels = to_pixels(inpt)
        batch = to_float(pixels)
        if not len(batch):
            return inpt
        self._check_images(batch, params["noise"])
        labels = self._labels(params, batch)
        selected = params.get("selected", torch.ones(len(batch), dtype=torch.bool, device=batch.device))
        index = selected.nonzero().squeeze(-1)
        if len(index) == len(batch):
            result = from_float(self.denoise(batch, params["timesteps"], params["noise"], labels), pixels.dtype)
        else:
            chosen = None if labels is None else labels[index]
            views = self.denoise(batch[index], params["timesteps"][index], params["noise"][index], chosen)
            result = pixels.index_copy(0, index, from_float(views, pixels.dtype))
        return restore(result, inpt)

    def denoise(self, images: Tensor, timesteps: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """``diffuse_and_denoise`` with this transform's network, in parts of at most ``max_batch`` images.

        Args:
            images: float32 (B, C, H, W) in [0, 1].
            timesteps: int64 (B,); noise: like images; labels: int64 (B,) for conditional networks, or None.
        """
        network = self._network.on(images.device)
        size = self.max_batch or fast_batch(images)
        parts = [slice(start, start + size) for start in range(0, len(images), size)]
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            views = [
                diffuse_and_denoise(
                    images[part], timesteps[part], noise[part], network, None if labels is None else labels[part]
                )
                for part in parts
            ]
        return torch.cat(views) if len(views) > 1 else views[0] if views else images

    def _choices(self) -> Tensor:
        if self._drawn_from is None:
            network = self.network
            network.schedule.check_timesteps(self.timesteps or ())
            self._drawn_from = torch.tensor(self.timesteps or network.augment_timesteps)
        return self._drawn_from

    def _labels(self, params: dict[str, Any], batch: Tensor) -> Tensor | None:
        """The labels, if the network takes any. One with a null class does without those that are not one per image."""
        network = self.network
        if network.num_classes is None:
            return None
        try:
            return as_labels(params.get("labels"), batch)
        except ValueError:
            if network.null_class is None:
                raise
            return None

    def _check_images(self, batch: Tensor, noise: Tensor) -> None:
        network = self.network
        check_channels(batch, network)
        if noise.shape != batch.shape:
            raise ValueError(f"images must have the shape of the draw, {tuple(noise.shape)}. Got {tuple(batch.shape)}")
        self._network.warn_of_size(batch, stacklevel=2)

    def _apply(self, fn: Any, recurse: bool = True) -> DiffAug:
        self._network.move(fn)
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        steps = self.timesteps
        drawn = "None" if steps is None else str(list(steps)) if len(steps) < 12 else f"[{steps[0]}, ..., {steps[-1]}]"
        return f"{self._network!r}, timesteps={drawn}, p={self.p}"
