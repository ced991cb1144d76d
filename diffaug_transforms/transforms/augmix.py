"""AugMix: a convex mix of an image with chains of simple operations on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..arguments import as_integer, as_number, as_optional_integer
from ..images import batch_shape, check_channels, from_batch, to_batch, to_dtype, transform_sample
from ..without_waiting import LateChecks, send

# An operation takes an image (C, H, W), a level in [0, 10] and a sign. Magnitudes are those of augmentations.py in
# google-research/augmix: level 10 is an operation's largest magnitude, smaller levels scale it linearly, and int()
# rounds towards zero as it does there.
Operation = Callable[[Tensor, float, int], Tensor]


def warp(image: Tensor, matrix: Sequence[float]) -> Tensor:
    """Move an image's pixels, with bilinear interpolation, as Pillow does.

    The matrix is (a, b, c, d, e, f). The pixel at (x, y), counted from the centre, becomes the one that was at
    (a x + b y + c, d x + e y + f). What comes from outside of the image is 0; at the border, inside, nothing is mixed
    with it. Values are truncated to 8 bits. torchvision's ``affine`` mixes, rounds, and waits for the device.
    """
    height, width = image.shape[-2:]
    x, y = (torch.linspace((1 - side) / 2, (side - 1) / 2, side, device=image.device) for side in (width, height))
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    places = torch.stack([columns, rows, torch.ones_like(rows)], dim=-1).reshape(1, -1, 3)
    scaled = torch.tensor(matrix).reshape(1, 2, 3) / torch.tensor([[width / 2], [height / 2]])
    grid = (places @ send(scaled, image.device).mT).reshape(1, height, width, 2)
    moved = grid_sample(image[None].float(), grid, padding_mode="border", align_corners=False)[0]
    # The positions' rounding errors must not take a whole grey level away.
    return (moved * (grid.abs() < 1).all(-1) + 0.01).floor().to(image.dtype)


def rotate(image: Tensor, level: float, sign: int) -> Tensor:
    angle = math.radians(sign * int(level * 30 / 10))
    return warp(image, (math.cos(angle), -math.sin(angle), 0, math.sin(angle), math.cos(angle), 0))


def shear_x(image: Tensor, level: float, sign: int) -> Tensor:
    """About the top left corner."""
    factor = sign * level * 0.3 / 10
    return warp(image, (1, factor, factor * image.shape[-2] / 2, 0, 1, 0))


def shear_y(image: Tensor, level: float, sign: int) -> Tensor:
    """About the top left corner."""
    factor = sign * level * 0.3 / 10
    return warp(image, (1, 0, 0, factor, 1, factor * image.shape[-1] / 2))


def third(side: int, level: float, sign: int) -> int:
    """A shift by at most a third of a side, in whole pixels."""
    return sign * int(level * side / 3 / 10)


#: A draw holds indices into it. AugMix leaves out operations that overlap with ImageNet-C's corruptions.
OPERATIONS: dict[str, Operation] = {
    "autocontrast": lambda image, level, sign: F.autocontrast(image),
    "equalize": lambda image, level, sign: F.equalize(image),
    "posterize": lambda image, level, sign: F.posterize(image, 4 - int(level * 4 / 10)),
    "rotate": rotate,
    "solarize": lambda image, level, sign: F.solarize(image, 256 - int(level * 256 / 10)),
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": lambda image, level, sign: warp(image, (1, 0, -third(image.shape[-1], level, sign), 0, 1, 0)),
    "translate_y": lambda image, level, sign: warp(image, (1, 0, 0, 0, 1, -third(image.shape[-2], level, sign))),
}
_IN_ORDER = tuple(OPERATIONS.values())


class AugMix(v2.Transform):
    """Mix each image with chains of random operations on it (Hendrycks et al., ICLR 2020, algorithm 1).

    mixed = (1 - m) image + m sum_i w_i chain_i(image), w ~ Dirichlet(1, ..., 1), m ~ Beta(1, 1). Each sample of a batch
    has its own draw. The operations and magnitudes are those of google-research/augmix, within one of 256 grey levels.
    (torchvision's own ``v2.AugMix`` shares one draw over a batch, and its geometric operations do nothing at severity
    1.) Operations run one sample at a time, so this transform belongs in DataLoader workers.

    It takes what ``DiffAug`` takes, images of 1 or 3 channels, and returns the same type. Chains work on 8-bit pixels.

    Args:
        severity: levels are uniform in [0.1, severity], at most 10. Level 10 is an operation's largest magnitude. The
            DiffAug paper trains with 1, the AugMix paper with 3.
        width: number of chains to mix.
        depth: number of operations in a chain. None: each chain draws 1, 2 or 3.

    Raises:
        ValueError, TypeError: in the constructor if an argument is out of range, in the call if an image is not as
            described or there is none.

    Example:
        >>> AugMix()(torch.rand(8, 3, 32, 32)).shape
        torch.Size([8, 3, 32, 32])
    """

    def __init__(self, severity: float = 1, width: int = 3, depth: int | None = None) -> None:
        super().__init__()
        self.severity = as_number("severity", severity, at_least=0.1, at_most=10)
        self.width = as_integer("width", width, 1)
        self.depth = as_optional_integer("depth", depth, 1)
        self._late_checks = LateChecks()

    def forward(self, *inputs: Any) -> Any:
        """The inputs with their images augmented. Everything else in them comes back as the same objects."""
        return transform_sample(self, inputs if len(inputs) > 1 else inputs[0])

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw for each sample of the first image, on the CPU. ``transform`` replays a draw.

        Returns:
            ``strength`` m (B,); ``weights`` (B, width); and for each operation of a chain, (B, width, depth):
            ``operations`` int64 (-1 after the end of a chain), ``levels`` in [0.1, severity], ``signs`` -1 or 1.
        """
        (size, *_), _ = batch_shape(flat_inputs[0])
        shape = (size, self.width, self.depth or 3)
        operations = torch.randint(len(OPERATIONS), shape)
        if self.depth is None:
            operations[torch.arange(3) > torch.randint(3, shape[:2])[..., None]] = -1
        exponentials = torch.empty(shape[:2]).exponential_()
        return {
            "strength": torch.rand(size),  # Beta(1, 1)
            "weights": exponentials / exponentials.sum(dim=-1, keepdim=True),  # Dirichlet(1, ..., 1)
            "operations": operations,
            "levels": torch.empty(shape).uniform_(0.1, self.severity),
            "signs": torch.randint(2, shape) * 2 - 1,
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply a draw. The same image and draw give the same result."""
        batch = to_batch(inpt, self._late_checks)
        if not len(batch):
            return inpt
        check_channels(batch, 1, 3)
        if len(params["strength"]) != len(batch):
            raise ValueError(f"images must be as many as drawn, {len(params['strength'])}. Got {len(batch)}")
        draws = zip(*(params[name].tolist() for name in ("operations", "levels", "signs", "weights")))
        mixtures = [self._mix_chains(image, *draw) for image, draw in zip(to_dtype(batch, torch.uint8), draws)]
        strength = send(params["strength"], batch.device).reshape(-1, 1, 1, 1)
        return from_batch(torch.lerp(batch, torch.stack(mixtures), strength), inpt)

    def _mix_chains(self, image: Tensor, operations: Any, levels: Any, signs: Any, weights: list[float]) -> Tensor:
        """The weighted sum of one image's chains, float32 in [0, 1]. The image is uint8 (C, H, W)."""
        mixture = torch.zeros(image.shape, device=image.device)
        for chain, weight in zip(zip(operations, levels, signs), weights):
            view = image
            for operation, level, sign in zip(*chain):
                if operation >= 0:
                    view = _IN_ORDER[operation](view, level, sign)
            mixture.add_(view, alpha=weight / 255)
        return mixture

    def extra_repr(self) -> str:
        return f"severity={self.severity}, width={self.width}, depth={self.depth}"
