"""Run DDA's own sampler and write ``tests/reference/dda.safetensors``.

git clone https://github.com/shiyegao/DDA SOURCE
python -m tests.fidelity.make_dda SOURCE
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from .dda import FILE, LOOPS, SEED, image
from .toys import SIDE, ToyUNet


def main(folder: Path) -> None:
    sys.path.insert(0, str(folder))
    from image_adapt.guided_diffusion import gaussian_diffusion as source
    from image_adapt.guided_diffusion.respace import SpacedDiffusion, space_timesteps
    from image_adapt.resize_right import resize

    tensors = {}
    for downscale in (2, 4, 8):
        small = resize(
            image(32) * 2 - 1, scale_factors=1.0 / downscale, out_shape=(1, 3, 32 // downscale, 32 // downscale)
        )
        tensors[f"phi, downscale {downscale}"] = resize(small, scale_factors=downscale, out_shape=(1, 3, 32, 32))
    diffusion = SpacedDiffusion(
        space_timesteps(1000, "100"),
        betas=source.get_named_beta_schedule("linear", 1000),
        model_mean_type=source.ModelMeanType.EPSILON,
        model_var_type=source.ModelVarType.LEARNED_RANGE,
        loss_type=source.LossType.MSE,
    )
    for case, (steps, downscale) in LOOPS.items():
        torch.manual_seed(SEED)
        reference = image() * 2 - 1
        result = diffusion.p_sample_loop(
            ToyUNet(),
            (1, 3, SIDE, SIDE),
            noise=reference,
            model_kwargs={"ref_img": reference},
            N=steps,
            D=downscale,
            scale=6,
        )
        tensors[case] = ((result.detach() + 1) / 2).clamp(0, 1)
    save_file({name: value.contiguous() for name, value in tensors.items()}, FILE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
