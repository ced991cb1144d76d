"""Run score_sde's own ancestral sampler and write ``tests/reference/score_sde.safetensors``.

git clone https://github.com/yang-song/score_sde_pytorch SOURCE
python -m tests.fidelity.make_score_sde SOURCE
"""

from __future__ import annotations

import abc
import ast
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .score_sde import BATCH, FILE, SEED, SIGMAS, STEPS, start
from .toys import ToyUNet


def main(folder: Path) -> None:
    sys.path.insert(0, str(folder))
    import sde_lib  # type: ignore[import-not-found]

    wanted = ("Predictor", "AncestralSamplingPredictor")
    script = (folder / "sampling.py").read_text()
    nodes = [node for node in ast.parse(script).body if getattr(node, "name", None) in wanted]
    names: dict[str, Any] = {"abc": abc, "torch": torch, "sde_lib": sde_lib}
    names["register_predictor"] = lambda name: lambda predictor: predictor
    exec(compile(ast.Module(nodes, []), str(folder), "exec"), names)
    sde, network = sde_lib.VESDE(*SIGMAS, STEPS), ToyUNet(learned_variance=False)

    def score(x: Tensor, t: Tensor) -> Tensor:
        index = (t * (STEPS - 1)).long()
        return -network(x, index) / sde.discrete_sigmas[index].reshape(-1, 1, 1, 1)

    predictor, x = names["AncestralSamplingPredictor"](sde, score), start()
    torch.manual_seed(SEED)
    with torch.no_grad():
        for i in reversed(range(STEPS)):
            # A little more than i steps, because the source truncates.
            x, mean = predictor.update_fn(x, torch.full((BATCH,), (i + 0.01) / (STEPS - 1)))
    save_file({"sigmas": sde.discrete_sigmas, "sample": mean}, FILE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
