"""Run OpenAI's own respacing, sampling and guidance and write ``tests/reference/guided_diffusion.safetensors``.

git clone https://github.com/openai/guided-diffusion SOURCE
python -m tests.fidelity.make_guided_diffusion SOURCE
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .guided_diffusion import COUNTS, FILE, SAMPLES, SCALE, SEED, TABLES, moments, start
from .toys import LABELS, ToyUNet, classify


def main(folder: Path) -> None:
    sys.path.insert(0, str(folder))
    from guided_diffusion import gaussian_diffusion as source
    from guided_diffusion.respace import SpacedDiffusion, space_timesteps

    def diffusion(name: str, steps: str, variance: str = "learned_range") -> Any:
        return SpacedDiffusion(
            space_timesteps(1000, steps),
            betas=source.get_named_beta_schedule(name, 1000),
            model_mean_type=source.ModelMeanType.EPSILON,
            model_var_type=source.ModelVarType[variance.upper()],
            loss_type=source.LossType.MSE,
        )

    def gradient(x: Tensor, t: Tensor, **_: Any) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            chosen = classify(x, t).log_softmax(-1)[range(len(x)), list(LABELS)]
            return SCALE * torch.autograd.grad(chosen.sum(), x)[0]

    tensors = {}
    for total, counts in COUNTS.items():
        tensors[f"spacing_{total}"] = moments([tuple(sorted(space_timesteps(total, str(n)))) for n in counts])
    for name in ("linear", "cosine"):
        for table in TABLES:
            tensors[f"{name}_{table}"] = torch.from_numpy(getattr(diffusion(name, "21"), table))
    for case, (spacing, count, method, eta, variance, guided) in SAMPLES.items():
        spaced = diffusion("linear", f"ddim{count}" if spacing == "leading" else str(count), variance)
        options = {"eta": eta} if method == "ddim" else {}
        loop = spaced.ddim_sample_loop if method == "ddim" else spaced.p_sample_loop
        torch.manual_seed(SEED)
        network = ToyUNet(variance == "learned_range")
        tensors[case] = loop(
            network, start().shape, noise=start(), cond_fn=gradient if guided else None, model_kwargs={}, **options
        )
    save_file({name: value.contiguous() for name, value in tensors.items()}, FILE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
