"""A DDPM++ checkpoint beside yang-song/score_sde_pytorch's own network, in float32."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from diffaug_transforms import load_score_network
from tests.openai_checkpoints import fill

from .toys import seeded

SOURCE = "yang-song/score_sde_pytorch, DDPM++"
FILE = Path(__file__).parent.parent / "reference" / "ddpmpp.safetensors"
TOLERANCE = 3e-5
FORMULAS = {
    "signal scale": "√ᾱ = exp(-β̄ / 2), β̄ the integral of the rate up to (t + 1) / 1000",
    "noise scale": "√(1 - ᾱ) of the same",
    "predicted noise": "eps of the DDPM++ U-Net, from a checkpoint's averaged weights",
}
WIDTH, BLOCKS = 32, 2
TIMES = (0, 10, 500, 999)


def checkpoint(folder: Path, **changes: object) -> Path:
    """A file as ``utils.save_checkpoint`` of the source writes it."""
    with safe_open(FILE, "pt") as file:
        state = fill(json.loads(file.metadata()["parameters"]))
    ema = {"decay": 0.9999, "num_updates": 7, "shadow_params": list(state.values())}
    model = {"module.sigmas": torch.zeros(1000), **{name: torch.zeros_like(value) for name, value in state.items()}}
    path = folder / "checkpoint_8.pth"
    torch.save({"optimizer": {"state": {}}, "model": model, "ema": ema, "step": 7, **changes}, path)
    return path


def comparisons() -> Iterator[tuple[str, Tensor, Tensor]]:
    """(case, ours, the source's)."""
    expected, t = load_file(FILE), torch.tensor(TIMES)
    with tempfile.TemporaryDirectory() as folder:
        network = load_score_network(checkpoint(Path(folder)))
    yield "signal scale", network.schedule.signal_scale[t], expected["signal_scale"]
    yield "noise scale", network.schedule.noise_scale[t], expected["noise_scale"]
    yield "predicted noise", network.eps(seeded(len(TIMES), 3, 32, 32, seed=1), t), expected["eps"]
