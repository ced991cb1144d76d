"""Classifiers of noisy images, log p(y | x_t, t): alone, and with the one-step denoised image beside it.

noisy               x_t ------------------------------> encoder --> logits
denoise-augmented   x_t --score network--> pred_x0 --/               whose gradient goes both ways back to x_t
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..score import ScoreNetwork
from ..score.functional import reflect_pad_to_multiple
from ..transforms.checks import check_channels
from ..transforms.lazy import LazyNetwork
from .encoder import GuidanceEncoder


class NoisyClassifier(nn.Module):
    """A classifier of noisy images (Dhariwal & Nichol, NeurIPS 2021, arXiv 2105.05233, sec. 4).

    Args:
        encoder: of the noisy form.
        classes: names of its K classes, kept in ``.classes`` and in saved folders.
        checkpointing: recompute the encoder's blocks in the backward pass: less memory, more time.

    Raises:
        ValueError: an encoder of the other form, or another number of names than of classes.

    Example:
        >>> encoder = GuidanceEncoder(16, 3, 10, (32,), ("AttnDownBlock2D",), attention_head_dim=16)
        >>> NoisyClassifier(encoder)(torch.randn(2, 3, 16, 16), torch.tensor([0, 999])).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, encoder: GuidanceEncoder, *, classes: Sequence[str] | None = None, checkpointing: bool = False
    ) -> None:
        super().__init__()
        if encoder.config["denoised_input"]:
            raise ValueError("encoder must be of the noisy form. Got the denoise-augmented one")
        self.encoder = _prepared(encoder, checkpointing)
        self.classes = _checked_names(classes, encoder)

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """Logits, float32 (B, K).

        Args:
            x_t: (B, C, H, W) in the range of [-1, 1] images plus noise, of the encoder's size.
            timesteps: int64 (B,), the score network's.
        """
        return self.encoder(x_t, timesteps).float()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder for ``load_guidance_classifier``: the encoder's safetensors, and JSON with the classes."""
        from .folder import write_folder

        write_folder(Path(folder), self.encoder, classes=self.classes)


class DenoiseAugmentedClassifier(nn.Module):
    """A classifier of noisy images that also sees them denoised (Sastry et al., NeurIPS 2024).

    It makes pred_x0 itself, with one call of the score network, so it is called as a noisy classifier is, and its
    gradient by x_t is the total derivative, through the score network too. The network is frozen, follows ``.to()`` in
    device, and is in no ``parameters()`` or ``state_dict()``.

    Args:
        encoder: of the denoise-augmented form; ``encoder.with_denoised_input()`` makes it from a noisy one.
        network: as DiffAug's; conditional networks need a null class.
        classes: as ``NoisyClassifier``'s.
        through_network: False: take pred_x0 for a constant. The gradient is then the partial derivative by x_t alone,
            and the network needs no backward pass.
        checkpointing: recompute the encoder's and the network's blocks in the backward pass: less memory, more time.
        dtype: the network's, as DiffAug's: None: bfloat16 where the device is fast at it, float32 otherwise.

    Raises:
        ValueError: an encoder of the other form, another number of names than of classes; in the call: images of
            another size or number of channels, a conditional network without null class.

    Example:
        >>> options = {"attention_head_dim": 16, "denoised_input": True}
        >>> encoder = GuidanceEncoder(32, 3, 10, (32,), ("AttnDownBlock2D",), **options)
        >>> classifier = DenoiseAugmentedClassifier(encoder, "cifar10")
        >>> classifier(torch.randn(2, 3, 32, 32), torch.tensor([0, 999])).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        encoder: GuidanceEncoder,
        network: str | Path | ScoreNetwork = "cifar10",
        *,
        classes: Sequence[str] | None = None,
        through_network: bool = True,
        checkpointing: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not encoder.config["denoised_input"]:
            raise ValueError("encoder must be of the denoise-augmented form: encoder.with_denoised_input(). Got noisy")
        self.encoder = _prepared(encoder, checkpointing)
        self.classes = _checked_names(classes, encoder)
        self.through_network = through_network
        self.checkpointing = checkpointing
        self._network = LazyNetwork(network, dtype, compile=False, gradients=through_network)

    @property
    def network(self) -> ScoreNetwork:
        """The score network, loaded if it was not."""
        return self._network.metadata()

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """Logits, float32 (B, K).

        Args:
            x_t: (B, C, H, W) in the range of [-1, 1] images plus noise, of the encoder's size.
            timesteps: int64 (B,) in 0...T-1 of the score network.
        """
        self.encoder.check_inputs(x_t, timesteps)
        return self.encoder(x_t, timesteps, self.denoise(x_t, timesteps)).float()

    def denoise(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """The network's clipped pred_x0, float32 (B, C, H, W) in [-1, 1]."""
        if not len(x_t):
            return x_t.float()
        network = self._ready_network(x_t)
        height, width = x_t.shape[-2:]
        with torch.set_grad_enabled(self.through_network and torch.is_grad_enabled()):
            padded = reflect_pad_to_multiple(x_t.float(), network.stride)
            return network.pred_x0(padded, timesteps)[..., :height, :width]

    def _ready_network(self, x_t: Tensor) -> ScoreNetwork:
        network = self._network.on(x_t.device)
        check_channels(x_t, network)
        self._network.warn_of_size(x_t, stacklevel=4)
        if self.checkpointing:
            network.unet.enable_gradient_checkpointing()  # type: ignore[operator]
        return network

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder for ``load_guidance_classifier``: the encoder's safetensors, and JSON with the classes and
        the network's name. A network given as an object has none, and has to be given again."""
        from .folder import write_folder

        source = self._network.source
        name = None if isinstance(source, ScoreNetwork) else str(source)
        write_folder(
            Path(folder), self.encoder, classes=self.classes, network=name, through_network=self.through_network
        )

    def _apply(self, fn: Any, recurse: bool = True) -> DenoiseAugmentedClassifier:
        self._network.move(fn)
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        return f"{self._network!r}, through_network={self.through_network}"


def _prepared(encoder: GuidanceEncoder, checkpointing: bool) -> GuidanceEncoder:
    if checkpointing:
        encoder.enable_gradient_checkpointing()
    return encoder


def _checked_names(classes: Sequence[str] | None, encoder: GuidanceEncoder) -> list[str] | None:
    number = encoder.config["num_classes"]
    if classes is not None and len(classes) != number:
        raise ValueError(f"classes must be {number} names, one per class. Got {len(classes)}")
    return None if classes is None else list(classes)
