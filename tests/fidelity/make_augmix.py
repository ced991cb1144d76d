"""Run AugMix's own code and write ``tests/reference/augmix.safetensors``.

git clone https://github.com/google-research/augmix SOURCE
python -m tests.fidelity.make_augmix SOURCE
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torchvision.transforms.v2.functional import pil_to_tensor, to_dtype, to_image

from diffaug_transforms.transforms.augmix import OPERATIONS

from .augmix import CHAINS, FILE, LEVELS, SIGNS, STRENGTH, WEIGHTS, image, logits
from .make_deepaugment import Draws, definitions


def main(folder: Path) -> None:
    sys.path.insert(0, str(folder))
    import augmentations as source  # type: ignore[import-not-found]

    source.sample_level = lambda level: level

    def apply(name: str, pil_image: Any, level: float, sign: int) -> Any:
        source.np = Draws(0.2 if sign > 0 else 0.8)
        return getattr(source, name)(pil_image, level)

    tensors = {}
    for name in OPERATIONS:
        for level in LEVELS:
            for sign in SIGNS:
                result = pil_to_tensor(apply(name, image(), level, sign))
                tensors[f"{name}, level {level}, sign {sign}"] = result[:, ::2, ::2]

    def operation(name: str, level: float, sign: int) -> Any:
        return lambda pil_image, _: apply(name, pil_image, level, sign)

    draws: list[Any] = [WEIGHTS, STRENGTH]
    for chain in CHAINS:
        draws += [len(chain), *(operation(*one) for one in chain)]
    args = SimpleNamespace(all_ops=False, aug_prob_coeff=1.0, mixture_width=3, mixture_depth=-1, aug_severity=1)
    names = definitions(folder / "imagenet.py", "aug", np=Draws(*draws), args=args, augmentations=source)
    mixed = names["aug"](image(), lambda pil_image: to_dtype(to_image(pil_image), torch.float32, scale=True))
    tensors["mixture"] = mixed.as_subclass(torch.Tensor)[:, ::2, ::2]

    # The lines of the training loop on p_clean, p_aug1, p_aug2 and p_mixture.
    script = ast.parse((folder / "imagenet.py").read_text())
    (train,) = (node for node in script.body if getattr(node, "name", None) == "train")
    lines: list[ast.stmt] = [
        node
        for node in ast.walk(train)
        if isinstance(node, (ast.Assign, ast.AugAssign)) and "p_clean" in ast.dump(node)
    ]
    clean, first, second = logits()
    values: dict[str, Any] = {"torch": torch, "F": F, "loss": torch.zeros(())}
    values |= {"logits_clean": clean, "logits_aug1": first, "logits_aug2": second}
    exec(compile(ast.Module(lines, []), "imagenet.py", "exec"), values)
    tensors["divergence"] = values["loss"] / 12
    save_file({name: value.contiguous() for name, value in tensors.items()}, FILE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
