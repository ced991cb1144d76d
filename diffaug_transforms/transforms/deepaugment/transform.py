"""The transform: it draws a network for each image and sends the image through it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ...arguments import as_number, as_optional_integer, check_generator, shown
from ...hub import download_file
from ...images import batch_shape, check_channels, from_batch, to_batch, transform_sample
from ...without_waiting import LateChecks, send
from ..workers import pack_generator, unpack_generator, worker_generator
from .cae import cae, corrupt_cae_weights, load_cae
from .edsr import corrupt_edsr_weights, edsr, load_edsr
from .noise2net import MAX_EPSILON, noise2net
from .weights import Weights

#: Probability that an image gets a newly corrupted network instead of the one of the image before it.
REDRAW_PROBABILITY = 0.05
SEEDS = 2**63 - 1
CPU = torch.device("cpu")
EDSR_ADVICE = (
    "Check the connection, or pass a local copy, DeepAugment('edsr', weights=PATH), or use 'noise2net', which needs "
    "no weights."
)


class Pretrained(NamedTuple):
    """A network that DeepAugment can corrupt."""

    size: int  # short side that the original resizes images to
    load: Callable[[Path], Weights]
    corrupt: Callable[[Weights, Generator], Weights]
    run: Callable[[Tensor, Weights, Generator], Tensor]  # an image (1, 3, H, W) in [0, 1] becomes one of any size


PRETRAINED = {
    "edsr": Pretrained(128, load_edsr, corrupt_edsr_weights, edsr),
    "cae": Pretrained(512, load_cae, corrupt_cae_weights, cae),
}


class DeepAugment(v2.Transform):
    """Send each image through a randomly corrupted network (Hendrycks et al., The Many Faces of Robustness, ICCV 2021).

    It takes what ``DiffAug`` takes, images of 3 channels, and returns the same type, shape, dtype and range. No
    gradient flows through it.

    - "noise2net": a small Res2Net with new random weights for each image. It computes x + epsilon block(x), four times.
    - "edsr": a super-resolution network by 4. Images are resized to 128 pixels, go through the network, and are
      resized back. The weights are downloaded at the first image (Hub repository eugenesiow/edsr-base, 6 MB).
    - "cae": a compressive autoencoder. It works as "edsr" does, at 512 pixels. No Hub has its weights: pass a path.

    The corrupted weights of "edsr" and "cae" stay for the next images, across calls. With probability 0.05 an image
    gets newly corrupted ones. The features are corrupted anew for each image. Networks, corruptions, constants and
    probabilities are those that github.com/hendrycks/imagenet-r, folder DeepAugment, computes. Three corruptions of its
    scripts do not compute what they mean to. They are kept as they are, and their functions say so.

    The data flow differs from the original's:

    - The original runs EDSR and the CAE once over the data set and saves each whole image as a file. Training crops
      the distorted image anew. This transform distorts the image that it gets. So in ``compose_with`` the views of
      DeepAugment share the clean view's crop and flip.
    - The original applies Noise2Net to half of each training batch, with one epsilon for all. This transform applies it
      to every image, each with an epsilon of its own. It clips the result to [0, 1]; the original does not.

    Args:
        network: "noise2net", "edsr" or "cae".
        weights: a local file. For "edsr": EDSR-baseline x4, official or super-image's; None: from the Hub. For "cae":
            model_final.state.
        size: short side in pixels to which images are resized before "edsr" and "cae". None: 128 and 512. For small
            images, such as CIFAR's of 32 pixels, a smaller size saves time.
        max_epsilon: strength of "noise2net". Each image draws epsilon uniformly in [max_epsilon / 2, max_epsilon].
            At most 10.
        generator: as DiffAug's.

    Raises:
        ValueError, TypeError: in the constructor if an argument is out of range, in the call if an image is not as
            described above.
        OSError: at the first image, if the weights are missing, damaged or another network's, or if the Hub cannot be
            reached.

    Example:
        >>> augment = DeepAugment()
        >>> augment(torch.rand(8, 3, 32, 32)).shape
        torch.Size([8, 3, 32, 32])
    """

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
        if weights is not None and not isinstance(weights, (str, Path)):
            raise TypeError(f"weights must be a path or None. Got {shown(weights)}")
        check_generator(generator)
        self.network = network
        self.weights = weights
        self.size = as_optional_integer("size", size, 16)
        self.max_epsilon = as_number("max_epsilon", max_epsilon, at_least=0, at_most=10)
        self.generator = generator
        self._network_seed: int | None = None
        self._loaded: dict[torch.device, Weights] = {}
        self._late_checks = LateChecks()

    def forward(self, *inputs: Any) -> Any:
        """The inputs with their images augmented. Everything else in them comes back as the same objects."""
        return transform_sample(self, inputs if len(inputs) > 1 else inputs[0])

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw for each sample of the first image. ``transform`` replays a draw.

        Returns:
            Tensors on the CPU. ``network_seed`` int64 (B,): the network depends on it alone, so images with equal
            seeds share a network. "noise2net" adds ``epsilon`` float32 (B,). "edsr" and "cae" add ``feature_seed``
            int64 (B,), which decides how the features are corrupted.
        """
        (batch, *_), _ = batch_shape(flat_inputs[0])
        generator = None if self.generator is None else worker_generator(self)
        options: Any = {"generator": generator, "device": CPU if generator is None else generator.device}
        seeds = torch.randint(SEEDS, (batch,), **options)
        if self.network == "noise2net":
            epsilon = self.max_epsilon * (1 + torch.rand(batch, **options)) / 2
            return {"network_seed": seeds.cpu(), "epsilon": epsilon.cpu()}
        redraw = torch.rand(batch, **options) < REDRAW_PROBABILITY
        features = torch.randint(SEEDS, (batch,), **options)
        # An image that draws no network of its own takes that of the image before it.
        network_seeds = []
        for seed, drawn in zip(seeds.tolist(), redraw.tolist()):
            if drawn or self._network_seed is None:
                self._network_seed = seed
            network_seeds.append(self._network_seed)
        return {"network_seed": torch.tensor(network_seeds, dtype=torch.int64), "feature_seed": features.cpu()}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply a draw. The same image and draw give the same result in any batch, on a GPU up to rounding."""
        images = to_batch(inpt, self._late_checks)
        check_channels(images, 3)
        if not len(images):
            return inpt
        if len(params["network_seed"]) != len(images):
            raise ValueError(f"images must be as many as drawn, {len(params['network_seed'])}. Got {len(images)}")
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            if self.network == "noise2net":
                views = noise2net(images, params["network_seed"].tolist(), params["epsilon"].tolist())
            else:
                views = self._pretrained(images, params)
        return from_batch(views, inpt)

    def _pretrained(self, images: Tensor, params: dict[str, Any]) -> Tensor:
        """One image at a time, because each has its own corrupted features. Each distinct network is made once."""
        kind, device = PRETRAINED[self.network], images.device
        weights, on_device = self._load(CPU), self._load(device)
        seeds, feature_seeds = params["network_seed"].tolist(), params["feature_seed"].tolist()
        views = torch.empty_like(images)
        for seed in set(seeds):
            corrupted = kind.corrupt(weights, Generator().manual_seed(seed))
            network = {
                name: on_device[name] if value is weights[name] else send(value, device)
                for name, value in corrupted.items()
            }
            for i in [i for i, other in enumerate(seeds) if other == seed]:
                small = F.resize(images[i : i + 1], [self.size or kind.size], antialias=True)
                view = kind.run(small, network, Generator().manual_seed(feature_seeds[i]))
                views[i] = F.resize(view, list(images.shape[-2:]), antialias=True)[0]
        return views

    def _load(self, device: torch.device) -> Weights:
        """The weights as they are in the file. They stay on each device that has had images."""
        if device not in self._loaded:
            on_cpu = self._read() if device == CPU else self._load(CPU)
            self._loaded[device] = {name: value.to(device) for name, value in on_cpu.items()}
        return self._loaded[device]

    def _read(self) -> Weights:
        if self.weights is None:
            path = download_file("eugenesiow/edsr-base", "pytorch_model_4x.pt", advice=EDSR_ADVICE)
        else:
            path = Path(self.weights).expanduser()
        return PRETRAINED[self.network].load(path)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the loaded weights out, so that pickles stay small. Copies load them again."""
        return pack_generator({**vars(self), "_loaded": {}})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(unpack_generator(state))

    def extra_repr(self) -> str:
        if self.network == "noise2net":
            return f"'noise2net', max_epsilon={self.max_epsilon}"
        return f"{self.network!r}, weights={None if self.weights is None else str(self.weights)!r}, size={self.size}"
