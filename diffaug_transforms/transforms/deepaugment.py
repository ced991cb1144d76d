"""DeepAugment: an image-to-image network with random or randomly corrupted weights augments the image."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image
import torch
from torch import Generator, Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..images import batch_shape, restore, to_batch, to_pixels
from ..images import to_dtype as from_float
from ..score.storage import ADVICE, download_file
from .deepaugment_cae import cae, read_cae
from .deepaugment_corruptions import corrupt_cae_weights, corrupt_edsr_weights
from .deepaugment_edsr import edsr, read_edsr
from .deepaugment_noise2net import MAX_EPSILON, noise2net
from .deepaugment_weights import Weights

EDSR_REPO = "eugenesiow/edsr-base"
EDSR_FILE = "pytorch_model_4x.pt"
#: Probability that an image gets a newly corrupted network instead of that of the image before it.
REDRAW_PROBABILITY = 0.05
SEEDS = 2**63 - 1
EDSR_ADVICE = (
    "Check the connection, or give a local copy, DeepAugment('edsr', weights=PATH), or use 'noise2net', which has no "
    "weights to load."
)


class Pretrained(NamedTuple):
    """What DeepAugment needs of a network with weights.

    Attributes:
        size: short side that the original resizes images to.
        read: file -> weights, on the CPU.
        corrupt: weights, generator -> corrupted ones.
        run: (1, 3, H, W) in [0, 1], weights on its device, generator -> an image in [0, 1] of any size.
    """

    size: int
    read: Callable[[Path], Weights]
    corrupt: Callable[[Weights, Generator], Weights]
    run: Callable[[Tensor, Weights, Generator], Tensor]


PRETRAINED = {
    "edsr": Pretrained(128, read_edsr, corrupt_edsr_weights, edsr),
    "cae": Pretrained(512, read_cae, corrupt_cae_weights, cae),
}


class DeepAugment(v2.Transform):
    """Send each image through a randomly corrupted network (Hendrycks et al., The Many Faces of Robustness, ICCV 2021).

    Takes what torchvision's v2 transforms take: PIL images, uint8 tensors, floating point tensors in [0, 1] of shape
    (..., 3, H, W), tv_tensors, alone or in any structure such as (images, labels). Gives back the same type, shape,
    dtype and range. No gradient flows through it.

    - "noise2net": a small Res2Net with random weights, another for each image; x + epsilon block(x) over 4 blocks.
    - "edsr": a super-resolution network by 4. Images are resized to 128 pixels, go through the network, and are
      resized back. Its weights are downloaded at the first image (Hub repository eugenesiow/edsr-base, 6 MB).
    - "cae": a compressive autoencoder, likewise, at 512 pixels. No Hub has its weights: give a path.

    The corrupted weights of "edsr" and "cae" stay for the images that follow, across calls, and are drawn anew with
    probability 0.05 per image; their features are corrupted anew in each image. Networks, constants and probabilities
    are those of github.com/hendrycks/imagenet-r, folder DeepAugment.

    Args:
        network: "noise2net", "edsr" or "cae".
        weights: local file of EDSR's weights (EDSR-baseline x4, official or super-image's), or of the CAE's
            (model_final.state).
        size: short side, in pixels, that images are resized to before "edsr" and "cae"; None: 128 and 512. Small
            images such as CIFAR's 32 pixels may use less and take less time.
        max_epsilon: strength of "noise2net": epsilon is uniform in [max_epsilon / 2, max_epsilon], per image.
        generator: source of the draws, for reproducibility; None: torch's global one of the images' device.

    Raises:
        ValueError, TypeError: in the constructor for arguments out of range, in the call for images that are not as
            above.
        OSError: at the first image, for weights that are missing, damaged or another network's, or a Hub that cannot
            be reached.

    Example:
        >>> augment = DeepAugment()
        >>> augment(torch.rand(8, 3, 32, 32)).shape
        torch.Size([8, 3, 32, 32])
    """

    _transformed_types = (v2._utils.is_pure_tensor, tv_tensors.Image, PIL.Image.Image)

    def __init__(
        self,
        network: str = "noise2net",
        *,
        weights: str | Path | None = None,
        size: int | None = None,
        max_epsilon: float = MAX_EPSILON,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        if network not in ("noise2net", *PRETRAINED):
            raise ValueError(f"network must be 'noise2net', 'edsr' or 'cae'. Got {network!r}")
        if network == "noise2net" and (weights, size) != (None, None):
            raise ValueError(f"weights and size are for 'edsr' and 'cae'. Got {weights!r}, {size!r} for 'noise2net'")
        if network == "cae" and weights is None:
            raise ValueError("'cae' needs weights, a local file: DeepAugment('cae', weights=PATH). Got None")
        if size is not None and size < 16:
            raise ValueError(f"size must be at least 16. Got {size}")
        if not 0 <= max_epsilon < math.inf:
            raise ValueError(f"max_epsilon must be at least 0 and finite. Got {max_epsilon}")
        self.network = network
        self.weights = weights
        self.size = size
        self.max_epsilon = max_epsilon
        self.generator = generator
        self._network_seed: int | None = None
        self._loaded: Weights | None = None

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw for each sample of the first image; pass the result to ``transform`` to replay it.

        Returns:
            ``network_seed`` int64 (B,): a sample's network is a function of it alone; overwrite it to choose which
            images share a network, whatever came before them. ``epsilon`` float32 (B,), of "noise2net".
            ``feature_seed`` int64 (B,), of "edsr" and "cae": what is done to the features.
        """
        if not flat_inputs:
            return {}
        (batch, *_), device = batch_shape(flat_inputs[0])
        options: Any = {"generator": self.generator, "device": self.generator.device if self.generator else device}
        seeds = torch.randint(SEEDS, (batch,), **options)
        if self.network == "noise2net":
            epsilon = self.max_epsilon * (1 + torch.rand(batch, **options)) / 2
            return {"network_seed": seeds.to(device), "epsilon": epsilon.to(device)}
        redraw = torch.rand(batch, **options) < REDRAW_PROBABILITY
        features = torch.randint(SEEDS, (batch,), **options)
        kept = self._carry_on(seeds.tolist(), redraw.tolist())
        return {
            "network_seed": torch.tensor(kept, dtype=torch.int64, device=device),
            "feature_seed": features.to(device),
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply a draw. Deterministic: the same image and params give the same result, in whatever batch."""
        pixels = to_pixels(inpt)
        if pixels.shape[1] != 3:
            raise ValueError(f"images must have 3 channels. Got {pixels.shape[1]}")
        images = to_batch(inpt)
        if not len(images):
            return inpt
        if len(params["network_seed"]) != len(images):
            raise ValueError(f"images must be as many as drawn, {len(params['network_seed'])}. Got {len(images)}")
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            views = self._noise2net(images, params) if self.network == "noise2net" else self._pretrained(images, params)
        return restore(from_float(views, pixels.dtype), inpt)

    def _noise2net(self, images: Tensor, params: dict[str, Any]) -> Tensor:
        draws = zip(images.split(1), params["network_seed"].tolist(), params["epsilon"])
        return torch.cat([noise2net(image, seed, epsilon) for image, seed, epsilon in draws])

    def _pretrained(self, images: Tensor, params: dict[str, Any]) -> Tensor:
        """One image at a time, since each has its own corruption of features; each distinct network is made once."""
        kind, weights = PRETRAINED[self.network], self._load()
        seeds, feature_seeds = params["network_seed"].tolist(), params["feature_seed"].tolist()
        views = torch.empty_like(images)
        for seed in set(seeds):
            corrupted = kind.corrupt(weights, Generator().manual_seed(seed))
            corrupted = {name: value.to(images.device) for name, value in corrupted.items()}
            for i in [i for i, other in enumerate(seeds) if other == seed]:
                small = F.resize(images[i : i + 1], [self.size or kind.size], antialias=True)
                view = kind.run(small, corrupted, Generator().manual_seed(feature_seeds[i]))
                views[i] = F.resize(view, list(images.shape[-2:]), antialias=True)[0]
        return views

    def _carry_on(self, seeds: list[int], redraw: list[bool]) -> list[int]:
        """Each sample's network seed: the one before it, or its own where it is drawn anew."""
        kept = []
        for seed, anew in zip(seeds, redraw):
            if anew or self._network_seed is None:
                self._network_seed = seed
            kept.append(self._network_seed)
        return kept

    def _load(self) -> Weights:
        if self._loaded is None:
            path = download_edsr() if self.weights is None else Path(self.weights).expanduser()
            self._loaded = PRETRAINED[self.network].read(path)
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        """Copies load again, so pickles stay small."""
        return {**vars(self), "_loaded": None}

    def extra_repr(self) -> str:
        if self.network == "noise2net":
            return f"'noise2net', max_epsilon={self.max_epsilon}"
        return f"{self.network!r}, weights={None if self.weights is None else str(self.weights)!r}, size={self.size}"


def download_edsr() -> Path:
    """EDSR's weights from the Hub, or from its cache where they are there."""
    try:
        return download_file(EDSR_REPO, EDSR_FILE)
    except OSError as error:
        raise OSError(str(error).replace(ADVICE, EDSR_ADVICE)) from error
