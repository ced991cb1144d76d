"""Run score_sde's own DDPM++ network and write ``tests/reference/ddpmpp.safetensors``.

git clone https://github.com/yang-song/score_sde_pytorch SOURCE
python -m tests.fidelity.make_ddpmpp SOURCE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from safetensors.torch import save_file

from tests.openai_checkpoints import fill

from .ddpmpp import BLOCKS, FILE, TIMES, WIDTH
from .toys import seeded

#: ``configs/vp/cifar10_ddpmpp_continuous.py`` and ``configs/default_cifar10_configs.py``, but narrower and shallower.
MODEL = SimpleNamespace(
    nf=WIDTH,
    num_res_blocks=BLOCKS,
    ch_mult=(1, 2, 2, 2),
    attn_resolutions=(16,),
    dropout=0.1,
    resamp_with_conv=True,
    conditional=True,
    fir=False,
    fir_kernel=[1, 3, 3, 1],
    skip_rescale=True,
    resblock_type="biggan",
    progressive="none",
    progressive_input="none",
    progressive_combine="sum",
    embedding_type="positional",
    init_scale=0.0,
    fourier_scale=16,
    nonlinearity="swish",
    scale_by_sigma=False,
    sigma_min=0.01,
    sigma_max=50,
    num_scales=1000,
)
CONFIG = SimpleNamespace(
    model=MODEL,
    data=SimpleNamespace(image_size=32, num_channels=3, centered=True),
    training=SimpleNamespace(continuous=True),
)


def main(folder: Path) -> None:
    operations = ModuleType("op")  # FIR resampling on CUDA, which DDPM++ does not use
    operations.upfirdn2d = None  # type: ignore[attr-defined]
    sys.modules["op"] = operations
    sys.path.insert(0, str(folder))
    import sde_lib  # type: ignore[import-not-found]
    from models import ncsnpp, utils  # type: ignore[import-not-found]

    network = ncsnpp.NCSNpp(CONFIG).eval()
    parameters = {f"module.{name}": list(value.shape) for name, value in network.named_parameters()}
    state = fill(parameters)
    network.load_state_dict({name.removeprefix("module."): value for name, value in state.items()}, strict=False)
    sde = sde_lib.VPSDE(0.1, 20, 1000)
    x_t, time = seeded(len(TIMES), 3, 32, 32, seed=1), (torch.tensor(TIMES) + 1) / 1000
    with torch.no_grad():
        score = utils.get_score_fn(sde, network, continuous=True)(x_t, time)
        mean, std = sde.marginal_prob(torch.ones(len(TIMES), 1, 1, 1), time)
    # Without the division by its float32 deviation, which is off by 1e-4 at t = 0.
    outputs = {"eps": -score * std.reshape(-1, 1, 1, 1), "signal_scale": mean.flatten(), "noise_scale": std}
    save_file(outputs, FILE, metadata={"parameters": json.dumps(parameters)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
