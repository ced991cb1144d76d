"""Purify: denoise each image at its own noise level, in one call, and leave clean images alone.

make_params: sigmas, timesteps and a mask of the noisy images      transform: Denoiser without noise, deterministic
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_unflatten
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..arguments import as_pixel_sigma, shown
from ..images import (
    batch_shape,
    find_images,
    flatten_sample,
    from_batch,
    restore,
    to_batch,
    to_dtype,
    to_pixels,
    transform_list,
)
from ..score import Denoiser, ScoreNetwork
from ..score.denoiser import as_denoiser
from ..without_waiting import LateChecks, send
from .noise_level import noise_level

#: The 99 % quantile of ``estimate_sigma`` over clean training images: 10,000 of CIFAR-10 (0.0347) and the 400 photos of
#: BSDS500 (0.0348).
GATE = 0.035


class Purify(v2.Transform):
    """Denoise each image at the level of the noise that it already has: one network call, and no noise is added.

    A noisy image is an x_t of the diffusion: ``signal_scale[t] * (2 * image - 1)`` at the timestep t whose sigma is
    nearest to ``2 * sigma``, because sigma is on pixels in [0, 1] and the network works on [-1, 1]. The network's
    pred_x0 for it is the purified image. Images whose noise is not above the gate come back bit for bit.

    It is deterministic, and takes and returns the same images and samples as DiffAug. Every image has its own sigma.
    It is meant for test time:

        robust = nn.Sequential(Purify("cifar10"), classifier)
        robust = SelfEnsemble(classifier, Purify("cifar10"))

    On a CPU only the noisy images go through the network. On a GPU all do, because the host would have to wait to
    know which are noisy; the others still come back bit for bit.

    Args:
        network: as DiffAug's, or a Denoiser.
        sigma: the standard deviation of the noise on pixels in [0, 1]: a number for all images, or a tensor (B,) with
            one for each image of the batch. None: ``estimate_sigma`` of each image. A sigma beyond the network's
            timesteps gets the nearest one.
        gate: images with a sigma of at most ``gate`` stay as they are. None: 0 if ``sigma`` is given. If it is
            estimated, 0.035: the 99 % quantile of ``estimate_sigma`` over clean training images, both of CIFAR-10 and
            of photos. For other images, measure your own: ``estimate_sigma(clean_images).quantile(0.99).item()``.
        max_batch, dtype, compile, differentiable: the Denoiser's, for a network that is not a Denoiser already. Unless
            ``differentiable``, gradients reach only the images that stay as they are.

    Raises:
        ValueError, TypeError: in the constructor for arguments out of range, in the call for images that are not as
            above, for a sample without an image, for a ``sigma`` of another length than the batch, and for images
            below 2 x 2 pixels if sigma is estimated. Labels are never used, so a conditional network must have a null
            class.
        RuntimeError: a CUDA network is called inside a forked DataLoader worker.

    Example:
        >>> purify = Purify("cifar10")
        >>> clean = torch.full((2, 3, 32, 32), 0.5)
        >>> torch.equal(purify(clean), clean)
        True
        >>> noisy = (clean + 0.1 * torch.randn(clean.shape)).clamp(0, 1)
        >>> (purify(noisy) - clean).std() < 0.05
        tensor(True)
    """

    def __init__(
        self,
        network: str | Path | ScoreNetwork | Denoiser = "cifar10",
        *,
        sigma: float | Tensor | None = None,
        gate: float | None = None,
        max_batch: int | None = None,
        dtype: torch.dtype | None = None,
        compile: bool | str = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__()
        self.sigma = as_sigma(sigma)
        self.gate = None if gate is None else as_pixel_sigma("gate", gate, at_least=0)
        self.denoiser = as_denoiser(
            network, max_batch=max_batch, dtype=dtype, compile=compile, differentiable=differentiable
        )
        self._late_checks = LateChecks()

    @property
    def network(self) -> ScoreNetwork:
        """The score network, for its schedule, sizes and classes. Loads it if it was not."""
        return self.denoiser.network

    @property
    def used_gate(self) -> float:
        """``gate``, or what stands for None."""
        if self.gate is not None:
            return self.gate
        return GATE if self.sigma is None else 0.0

    # As Denoiser's: torch.compile(purify) loads the network before it traces.
    _initialize_hook = True

    def _infer_parameters(self, *_: Any) -> None:
        self.denoiser.load()

    def forward(self, *inputs: Any) -> Any:
        """The inputs with their noisy images denoised. Everything else in them comes back as the same objects."""
        sample = inputs if len(inputs) > 1 else inputs[0]
        if type(sample) in (Tensor, tv_tensors.Image):
            return self.transform(sample, self.make_params([sample]))
        leaves, structure = flatten_sample(sample)
        for i in find_images(leaves):
            if isinstance(leaves[i], list):
                leaves[i] = transform_list(self, leaves[i], None)
            else:
                leaves[i] = self.transform(leaves[i], self.make_params([leaves[i]]))
        return tree_unflatten(leaves, structure)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """For each image of the first batch: sigmas float32 (B,), timesteps int64 (B,), selected bool (B,).

        Pass the result to ``transform`` to replay it.
        """
        (number, *_), device = batch_shape(flat_inputs[0])
        if self.sigma is None:
            sigmas = noise_level(to_batch(flat_inputs[0], self._late_checks).detach())
        elif isinstance(self.sigma, Tensor):
            if self.sigma.shape != (number,):
                raise ValueError(f"sigma must have one entry for each of the {number} images. Got {len(self.sigma)}")
            sigmas = send(self.sigma, device)
        else:
            sigmas = torch.full((number,), float(self.sigma), device=device)
        schedule = self.denoiser.ready(device, number).schedule
        between = (schedule.sigmas[1:] + schedule.sigmas[:-1]) / 2
        nearest = torch.bucketize(2 * sigmas, between, right=True)
        timesteps = nearest.clamp(schedule.timesteps[0], schedule.timesteps[-1])
        return {"sigmas": sigmas, "timesteps": timesteps, "selected": sigmas > self.used_gate}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Denoise the selected images at their timesteps. The same image and params give the same result."""
        batch = to_batch(inpt, self._late_checks)
        timesteps, selected = params["timesteps"], params["selected"]
        on_host = batch.device.type == "cpu" and not torch.compiler.is_compiling()
        if on_host and not self.denoiser.compile_network:
            index = selected.nonzero().squeeze(-1)
            noisy = batch[index]
            return from_batch(self.denoiser(noisy, timesteps[index], torch.zeros_like(noisy)), inpt, index)
        if not len(batch):
            return inpt
        # With zeros for noise, diffusion only scales an image.
        purified = self.denoiser(batch, timesteps, torch.zeros_like(batch))
        pixels = to_pixels(inpt)
        chosen = torch.where(selected.reshape(-1, 1, 1, 1), to_dtype(purified, pixels.dtype), pixels)
        return restore(chosen, inpt)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        sigma = f"<{len(self.sigma)} numbers>" if isinstance(self.sigma, Tensor) else self.sigma
        return f"{self.denoiser.extra_repr()}, sigma={sigma}, gate={self.used_gate}"


def as_sigma(sigma: Any) -> float | Tensor | None:
    """One noise level, or one for each image, float32 (B,) on the CPU; None stays None."""
    if sigma is None or not isinstance(sigma, Tensor):
        return None if sigma is None else as_pixel_sigma("sigma", sigma, at_least=0)
    if sigma.ndim > 1 or sigma.is_complex() or sigma.dtype == torch.bool:
        raise ValueError(f"sigma must be a number or a tensor (B,) of numbers. Got {sigma.dtype} {shown(sigma)}")
    numbers = sigma.detach().cpu().float()
    for number in numbers.reshape(-1).tolist():
        as_pixel_sigma("sigma", number, at_least=0)
    return numbers.clone() if sigma.ndim else numbers.item()
