"""Classifiers of noisy images, log p(y | x_t, t): alone, and with the one-step denoised image beside it.

noisy               x_t ------------------------------> encoder --> logits
denoise-augmented   x_t --score network--> pred_x0 --/               whose gradient goes both ways back to x_t
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import as_names, as_path, check_flags, check_instance
from ..files import add_checksum, writing
from ..images import check_channels
from ..score import Denoiser, ScoreNetwork
from ..score.denoiser import as_denoiser
from ..score.functional import reflect_pad_to_multiple
from .encoder import GuidanceEncoder

#: The file in a classifier's folder that says what its encoder does not.
METADATA = "guidance_classifier.json"


class NoisyClassifier(nn.Module):
    """A classifier of noisy images (Dhariwal & Nichol, NeurIPS 2021, arXiv 2105.05233, sec. 4).

    Args:
        encoder: of the noisy form.
        classes: names of its K classes, kept in ``.classes`` and in saved folders.
        checkpointing: recompute the encoder's blocks in the backward pass: less memory, more time.

    Raises:
        ValueError, TypeError: an encoder of the other form, or another number of names than of classes.

    Example:
        >>> encoder = GuidanceEncoder(16, 3, 10, (32,), ("AttnDownBlock2D",), attention_head_dim=16)
        >>> NoisyClassifier(encoder)(torch.randn(2, 3, 16, 16), torch.tensor([0, 999])).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, encoder: GuidanceEncoder, *, classes: Sequence[str] | None = None, checkpointing: bool = False
    ) -> None:
        super().__init__()
        check_instance("encoder", encoder, GuidanceEncoder)
        check_flags(checkpointing=checkpointing)
        if encoder.config["denoised_input"]:
            raise ValueError("encoder must be of the noisy form. Got the denoise-augmented one")
        self.encoder = encoder
        self.checkpointing = checkpointing
        self.classes = _checked_names(classes, encoder)

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """Logits, float32 (B, K).

        x_t is (B, C, H, W) on the scale of [-1, 1] and of the encoder's size. The timesteps are the score network's,
        int64 (B,).
        """
        with gradient_checkpointing(self.encoder, self.checkpointing):
            return self.encoder(x_t, timesteps).float()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder for ``load_guidance_classifier``: the encoder's safetensors, and JSON with the classes."""
        write_folder(as_path("folder", folder), self.encoder, classes=self.classes)


class DenoiseAugmentedClassifier(nn.Module):
    """A classifier of noisy images that also sees them denoised (Sastry et al., NeurIPS 2024).

    It makes pred_x0 itself, with one call of the score network. So it is called as a noisy classifier is, and its
    gradient by x_t is the total derivative, through the score network too.

    Args:
        encoder: of the denoise-augmented form; ``encoder.with_denoised_input()`` makes it from a noisy one.
        network: as DiffAug's, or a Denoiser. Conditional networks need a null class.
        classes: as ``NoisyClassifier``'s.
        through_network: False: take pred_x0 for a constant. The gradient is then the partial derivative by x_t alone,
            and the network needs no backward pass.
        checkpointing: recompute the encoder's and the network's blocks in the backward pass: less memory, more time.
        dtype: the Denoiser's, for a network that is not a Denoiser already.

    Raises:
        ValueError: an encoder of the other form, or another number of names than of classes. In the call: images of
            another size or number of channels, or a conditional network without null class.

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
        network: str | Path | ScoreNetwork | Denoiser = "cifar10",
        *,
        classes: Sequence[str] | None = None,
        through_network: bool = True,
        checkpointing: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_instance("encoder", encoder, GuidanceEncoder)
        check_flags(through_network=through_network, checkpointing=checkpointing)
        if not encoder.config["denoised_input"]:
            raise ValueError("encoder must be of the denoise-augmented form: encoder.with_denoised_input(). Got noisy")
        self.encoder = encoder
        self.classes = _checked_names(classes, encoder)
        self.through_network = through_network
        self.checkpointing = checkpointing
        own = isinstance(network, Denoiser)
        options: dict[str, Any] = {} if own else {"differentiable": through_network, "checkpointing": checkpointing}
        self.denoiser = as_denoiser(network, dtype=dtype, **options)

    @property
    def network(self) -> ScoreNetwork:
        """The score network, for its schedule and sizes. Loads it if it was not."""
        return self.denoiser.network

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """Logits, float32 (B, K). The arguments are those of ``NoisyClassifier.forward``."""
        self.encoder.check_inputs(x_t, timesteps)
        pred_x0 = self.denoise(x_t, timesteps)
        with gradient_checkpointing(self.encoder, self.checkpointing):
            return self.encoder(x_t, timesteps, pred_x0).float()

    def denoise(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """The network's clipped pred_x0, float32 (B, C, H, W) in [-1, 1]."""
        if not len(x_t):
            return x_t.float()
        network = self.denoiser.ready(x_t.device)
        check_channels(x_t, network.in_channels)
        self.denoiser.warn_of_size(x_t, stacklevel=4)
        height, width = x_t.shape[-2:]
        with torch.set_grad_enabled(self.through_network and torch.is_grad_enabled()):
            padded = reflect_pad_to_multiple(x_t.float(), network.stride)
            return network.pred_x0(padded, timesteps)[..., :height, :width]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder for ``load_guidance_classifier``: the encoder's safetensors, and JSON with the classes and
        the network's name. A network given as an object has no name, and has to be given again."""
        source = self.denoiser.source
        name = None if isinstance(source, ScoreNetwork) else str(source)
        options = {"classes": self.classes, "network": name, "through_network": self.through_network}
        write_folder(as_path("folder", folder), self.encoder, **options)

    def extra_repr(self) -> str:
        return f"through_network={self.through_network}"


def write_folder(folder: Path, encoder: GuidanceEncoder, **metadata: Any) -> None:
    """Write ``encoder/`` (config.json, safetensors) and ``guidance_classifier.json`` (the metadata)."""
    with writing(folder) as new:
        encoder.save_pretrained(new / "encoder")
        add_checksum(new / "encoder" / "diffusion_pytorch_model.safetensors")
        (new / METADATA).write_text(json.dumps(metadata, indent=1) + "\n")


@contextmanager
def gradient_checkpointing(encoder: GuidanceEncoder, enabled: bool) -> Iterator[None]:
    """Switch the encoder's gradient checkpointing on for one forward pass, and leave the encoder as it was."""
    if not enabled or encoder.is_gradient_checkpointing:
        yield
        return
    encoder.enable_gradient_checkpointing()
    try:
        yield
    finally:
        encoder.disable_gradient_checkpointing()


def _checked_names(classes: Sequence[str] | None, encoder: GuidanceEncoder) -> list[str] | None:
    if classes is None:
        return None
    names, number = list(as_names("classes", classes)), encoder.config["num_classes"]
    if len(names) != number:
        raise ValueError(f"classes must be {number} names, one per class. Got {len(names)}")
    return names
