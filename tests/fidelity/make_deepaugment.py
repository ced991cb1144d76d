"""Run DeepAugment's original scripts and write ``tests/reference/deepaugment.safetensors``.

git clone https://github.com/hendrycks/imagenet-r SOURCE
python -m tests.fidelity.make_deepaugment SOURCE/DeepAugment
"""

from __future__ import annotations

import ast
import json
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from diffaug_transforms.transforms.deepaugment import noise2net

from .deepaugment import FILE, SEED, generator, large_weights, samples, small_image


def definitions(path: Path, *names: str, **globals_: Any) -> dict[str, Any]:
    """Functions and classes of a script that cannot be imported without its data."""
    nodes = [node for node in ast.parse(path.read_text()).body if getattr(node, "name", None) in names]
    namespace = {"torch": torch, "np": np, "nn": nn, "F": F, "random": random, **globals_}
    exec(compile(ast.Module(nodes, []), str(path), "exec"), namespace)
    return namespace


class Draws:
    """Stands for ``random`` and for ``numpy`` in a script: what it draws are the given values, in order."""

    def __init__(self, *values: Any) -> None:
        self.values = list(values)
        self.random = self

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self.values.pop(0)

    choice = randint = uniform = sample = permutation = dirichlet = beta = __call__

    def shuffle(self, values: list[Any]) -> None:
        values[:] = self.values.pop(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def run_edsr(folder: Path, keep: Callable[..., None]) -> None:
    path, before = folder / "EDSR_distort_imagenet.py", large_weights("edsr")

    def weights(option: int, source: Sequence[Any], integers: Sequence[int], *uniforms: float) -> None:
        """Draws in the source's order, then the same ones in the package's."""
        draws = Draws([option], *source)
        names = definitions(path, "get_weights", random=draws, np=draws, gelu=F.gelu, conv2d=F.conv2d)
        torch.manual_seed(SEED)
        with patch.object(torch, "load", lambda _: {name: value.clone() for name, value in before.items()}):
            keep(
                f"edsr_weights_{option}", samples(before, names["get_weights"]()), integers=integers, uniforms=uniforms
            )

    weights(0, [3], [1])
    weights(1, [4], [1])
    weights(2, [6], [2])
    weights(3, [9], [3])
    weights(4, [0], [0])
    weights(5, [3], [1])
    weights(6, [3, 0.7], [1], 0.7)
    weights(7, [6], [2])
    rows, columns = ([(7 * i + j) // 3 % 3 for i in range(64)] for j in (0, 5))
    signs = (2.0 * (torch.rand(64, generator=generator(SEED)) < 0.5) - 1).tolist()
    weights(8, [5, *(v for place in zip(zip(rows, columns), signs) for v in place)], [1, *rows, *columns])
    weights(9, [3, 0.6], [1], 0.6)
    weights(11, [7], [7])
    blocks, layers, turns, planes = [2, 7, 7, 14, 0], [0, 2, 2, 0, 2], [1, 3, 1, 2, 3], [0, 1, 0, 1, 0]
    pairs, halves = list(zip(blocks, layers)), [layer // 2 for layer in layers]
    ours = [v for row in zip(blocks, halves, (k - 1 for k in turns), planes) for v in row]
    weights(12, [*flat(pairs), *flat(zip(turns, planes))], ours)
    weights(13, blocks, blocks)
    weights(14, blocks, blocks)
    filters = [[(5 * i * i + 3 * j) % 64 for i in range(32)] for j in range(5)]
    weights(15, [*blocks, *flat(filters)], [v for block, drawn in zip(blocks, filters) for v in (block, *drawn)])
    weights(16, flat(pairs), [v for row in zip(blocks, halves) for v in row])

    sys.path.insert(0, str(folder))
    from EDSR_Model import common  # type: ignore[import-not-found]

    def distort(case: str, head: int, body: int, source: Sequence[int], integers: Sequence[int]) -> None:
        draws = Draws(*source)
        net = definitions(path, "EDSR", random=draws, common=common)["EDSR"]()
        net.load_state_dict(before, strict=False)
        torch.manual_seed(SEED)
        with torch.no_grad():
            result = net(255 * small_image(6), pre_distortions={head}, body_distortions={body}).clamp(0, 255) / 255
        keep(case, {"": result}, integers=integers)

    channels = [3, 9, 9, 20, 40, 3, 61, 61, 0, 63]
    distort("edsr_head_1", 1, 5, channels, [0, *channels, 4])
    for head in (2, 3, 4):
        distort(f"edsr_head_{head}", head, 5, [], [head - 1, 4])
    distort("edsr_body_1", 4, 1, [], [3, 0])
    distort("edsr_body_2", 4, 2, [1], [3, 1, 0])
    distort("edsr_body_2b", 4, 2, [2], [3, 1, 2])
    distort("edsr_body_3", 4, 3, [1], [3, 2, 0])
    distort("edsr_body_3b", 4, 3, [0], [3, 2, 1])
    distort("edsr_body_4", 4, 4, [4, 9, 12], [3, 3, 2, 7, 10])
    distort("edsr_body_4b", 4, 4, [16, 15, 3], [3, 3, 14, 13, 1])
    distort("edsr_body_5", 4, 5, [], [3, 4])


def run_cae(folder: Path, keep: Callable[..., None]) -> None:
    before = large_weights("cae")

    def weights(case: str, source: Sequence[Any], integers: Sequence[int], *uniforms: float) -> None:
        draws = Draws(*source)
        path = folder / "CAE_distort_imagenet.py"
        get_weights = definitions(path, "get_weights", random=draws, np=draws, gelu=F.gelu)["get_weights"]
        torch.manual_seed(SEED)
        with patch.object(torch, "load", lambda _: {name: value.clone() for name, value in before.items()}):
            keep(f"cae_weights_{case}", samples(before, get_weights()), integers=integers, uniforms=uniforms)

    # The source draws layers i and j for each option.
    weights("0", [[0], 13, 11], [0, 2])
    weights("0b", [[0], 12, 12], [0, 1])
    filters = [(7 * i * i) % 64 for i in range(25)]
    weights("1", [[1], 9, 8, *filters[:12]], [1, 1, *filters[:12]])
    weights("2", [[2], 13, 8, *filters], [2, 5, *filters])
    weights("3", [[3], 12, 10, *filters], [3, 2, *filters])
    weights("4", [[4], 9, 11, 0.7, 0.2], [4, 1, 3], 0.7, 0.2)
    weights("4b", [[4], 9, 9, 0.7, 0.2], [4, 1, 1], 0.7, 0.2)
    weights("5", [[5], 12, 8, 0.3], [5, 4, 0])
    weights("6", [[6], 11, 8, 3], [6, 3, 2, 0])
    weights("7", [[7], 9, 8, *filters[:12]], [7, 1, *filters[:12]])

    def distort(option: int, source: Sequence[Any], integers: Sequence[int], *uniforms: float) -> None:
        draws = Draws(option, *source)
        path = folder / "CAE_Model" / "cae_32x32x32_zero_pad_bin.py"
        net = definitions(path, "CAE", random=draws, np=draws)["CAE"]()
        net.load_state_dict(before)
        torch.manual_seed(SEED)
        with torch.no_grad(), patch.object(torch.cuda, "FloatTensor", torch.FloatTensor):
            result = {"": net(small_image(16)).clamp(0, 1)}
        keep(f"cae_code_{option}", result, integers=[option, *integers], uniforms=uniforms)

    distort(0, [0.8], [], 0.8)
    distort(1, [], [])
    distort(2, [], [])
    distort(3, [torch.randperm(10, generator=generator()).numpy()], [])
    channels = [3, 17, 17, 30, 0]
    distort(4, [1, [0, 2, 1], *channels], [1, *channels])
    distort(5, [1, [2, 1, 0]], [2])
    distort(6, [], [])
    coins = [(37 * j % 100) / 100 for j in range(32)]
    links = {j: (11 * j % 32, j % 3 - 1, (j // 3) % 3 - 1) for j in range(32) if coins[j] < 0.5}
    source = [v for j in range(32) for v in (coins[j], *links.get(j, ()))]
    distort(7, source, [v for other, row, column in links.values() for v in (other, row % 3, column % 3)], *coins)
    shifts = {j: (j % 3, (j // 2) % 3) for j in range(32) if coins[j] < 0.2}
    source = [v for j in range(32) for v in ((coins[j], shifts[j]) if j in shifts else (coins[j],))]
    distort(8, [(2, 0), *source], [2, 0, *flat(shifts.values())], *coins)


def run_noise2net(folder: Path, keep: Callable[..., None]) -> None:
    blocks = [((1, 3, 3), (1, 2, 3)), ((3, 1, 1), (2, 2, 1)), ((3, 3, 3), (1, 1, 1)), ((1, 1, 3), (3, 3, 3))]
    draws = Draws(*(v for sizes, dilations in blocks for place in zip(sizes, dilations) for v in place))
    names = definitions(folder / "train_noise2net.py", "GELU", "Bottle2neck", "Res2Net", random=draws)
    net, source = names["Res2Net"](epsilon=0.6, hidden_planes=16, batch_size=1).train(), generator(SEED)
    for block in (net.block1, net.block2, net.block3, net.block4):
        for layer in (block.conv1, *block.convs, block.conv3):
            layer.weight.data = noise2net.initial_weight(tuple(layer.weight.shape), source)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (noise2net.IMAGE_MEAN, noise2net.IMAGE_STD))
    with torch.no_grad():
        result = net((small_image(12) - mean) / std) * std + mean
    # The source does not clip: its classifier sees these values.
    keep("noise2net_0", {"": result.clamp(0, 1)}, blocks=blocks, epsilon=0.6)


def flat(rows: Iterable[Iterable[Any]]) -> list[Any]:
    return [value for row in rows for value in row]


def main(folder: Path) -> None:
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign, assignment]
    tensors: dict[str, Tensor] = {}
    draws: dict[str, Any] = {}

    def keep(case: str, result: dict[str, Tensor], **drawn: Any) -> None:
        draws[case] = drawn
        tensors.update({f"{case}:{name}": value.contiguous() for name, value in result.items()})

    run_edsr(folder, keep)
    run_cae(folder, keep)
    run_noise2net(folder, keep)
    save_file(tensors, FILE, {"draws": json.dumps(draws)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
