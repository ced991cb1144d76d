"""DDA beside shiyegao/DDA, at batch 1, on a network in closed form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.robustness import DDA
from diffaug_transforms.robustness.adaptation import low_pass
from diffaug_transforms.score import NoiseSchedule

from .toys import SIDE, ToyUNet

SOURCE = "shiyegao/DDA"
FILE = Path(__file__).parent.parent / "reference" / "dda.safetensors"
TOLERANCE = 1e-4
SEED = 5
FORMULAS = {
    "phi": "φ: cubic, antialiased, down and up again; border of zeros",
    "13 steps": "x ← x - 6 ∇‖φ(reference) - φ(pred_x0)‖₂ after each ancestral step, 13 steps",
    "50 steps": "the same, 50 steps, as at 256 pixels",
}
#: Respaced steps below the start, and downscale.
LOOPS = {"13 steps": (13, 4), "50 steps": (50, 4), "13 steps, downscale 2": (13, 2)}


def image(side: int = SIDE) -> Tensor:
    """(1, 3, side, side) in [0, 1], with edges."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    channels = [(rows * k + columns * (3 - k)) % 11 / 10 for k in range(3)]
    return torch.stack(channels)[None].float()


def comparisons() -> Iterator[tuple[str, Tensor, Tensor]]:
    """(case, ours, the source's)."""
    expected = load_file(FILE)
    for downscale in (2, 4, 8):
        case = f"phi, downscale {downscale}"
        yield case, low_pass(image(32) * 2 - 1, downscale, "zeros"), expected[case]
    for case, (steps, downscale) in LOOPS.items():
        network = ScoreNetwork(ToyUNet(), NoiseSchedule.named("linear"), variance_type="learned_range")
        options = {"downscale": downscale, "border": "zeros", "dtype": torch.float32}
        dda = DDA(network, start_timestep=round(steps * 999 / 99), **options)
        torch.manual_seed(SEED)
        noise = torch.stack([torch.randn(1, 3, SIDE, SIDE) for _ in range(steps + 1)])
        yield case, dda.adapt(image(), noise), expected[case]
