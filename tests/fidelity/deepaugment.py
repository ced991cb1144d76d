"""DeepAugment beside the scripts of hendrycks/imagenet-r, folder DeepAugment."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from diffaug_transforms.transforms.deepaugment import cae, edsr, noise2net
from diffaug_transforms.transforms.deepaugment import weights as change
from tests.transforms.deepaugment_files import generator, random_weights

SOURCE = "hendrycks/imagenet-r"
TOLERANCE = 1e-5
FILE = Path(__file__).parent.parent / "reference" / "deepaugment.safetensors"
#: Every how many entries of a changed weight are kept.
STRIDE = 97
SEED = 5
NAMES = {
    "edsr_weights": "EDSR's weights",
    "edsr_head": "EDSR's head",
    "edsr_body": "EDSR's body",
    "cae_weights": "the CAE's weights",
    "cae_code": "the CAE's code",
    "noise2net": "Noise2Net",
}
FORMULAS = {
    "EDSR's weights": "the 16 random changes of EDSR's weights",
    "EDSR's head": "EDSR's pass, with the 4 changes of the head's features",
    "EDSR's body": "EDSR's pass, with the 8 changes of the body's features",
    "the CAE's weights": "the random changes of the autoencoder's weights",
    "the CAE's code": "the autoencoder's pass, with the changes of its code",
    "Noise2Net": "x + ε block(x) over 4 blocks of a random Res2Net",
}
#: Cases in which the source draws a mask as round(u + p), the package as u < p: 1 - u gives the same one.
MIRRORED = ("edsr_weights_13", "edsr_weights_14", "edsr_head_2", "edsr_head_3", "cae_weights_5", "cae_code_2")


def small_image(side: int) -> Tensor:
    return torch.rand(1, 3, side, side, generator=generator(SEED))


def large_weights(name: str) -> dict[str, Tensor]:
    """Random weights of which every layer keeps the size of its input."""
    return {key: 1.5 * value for key, value in random_weights(name).items()}


def samples(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Tensor]:
    """Some entries of each tensor that was changed."""
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    return {name: after[name].flatten()[:: STRIDE if after[name].ndim > 1 else 1].clone() for name in changed}


@contextmanager
def replay(integers: Sequence[int], uniforms: Sequence[float], masks: int) -> Iterator[None]:
    """Replace the package's draws: integers and single uniform numbers in order, arrays from a seed.

    The first ``masks`` arrays are mirrored.
    """
    numbers, single, source, arrays = iter(integers), iter(uniforms), generator(SEED), itertools.count()

    def pick(options: Sequence[Any], _: Any) -> Any:
        return options[next(numbers)]

    def pick_several(n: int, draws: int, _: Any) -> list[int]:
        return [next(numbers) for _ in range(draws)]

    def uniform(shape: Sequence[int], like: Tensor, _: Any) -> Tensor:
        drawn = rand(*shape, generator=source)
        return 1 - drawn if next(arrays) < masks else drawn

    rand = torch.rand

    def torch_rand(*shape: Any, **options: Any) -> Tensor:
        return torch.tensor(next(single)) if shape == ((),) else rand(*shape, **options)

    with ExitStack() as stack:
        for module in (edsr, cae, change):
            for name, function in (("pick", pick), ("pick_several", pick_several), ("uniform", uniform)):
                stack.enter_context(patch.object(module, name, function))
        stack.enter_context(patch.object(torch, "rand", torch_rand))
        yield


def ours(case: str, draws: dict[str, Any]) -> dict[str, Tensor]:
    """What the package computes for a case of the reference file."""
    kind, _, option = case.rpartition("_")
    masks = 0 if case not in MIRRORED else 1 if kind == "cae_code" else 5
    with replay(draws.get("integers", ()), draws.get("uniforms", ()), masks), torch.no_grad():
        if kind == "edsr_weights":
            before = large_weights("edsr")
            return samples(before, edsr.apply_corruption(before, edsr.EDSR_CORRUPTIONS[int(option)], generator()))
        if kind == "cae_weights":
            before = large_weights("cae")
            return samples(before, cae.corrupt_cae_weights(before, generator()))
        if kind in ("edsr_head", "edsr_body"):
            weights = edsr.with_scale(large_weights("edsr"), 255.0, edsr.IMAGE_MEAN)
            return {"": edsr.edsr(small_image(6), weights, generator())}
        if kind == "cae_code":
            return {"": cae.cae(small_image(16), large_weights("cae"), generator())}
    return {"": noise2net_of(draws)}


def noise2net_of(draws: dict[str, Any]) -> Tensor:
    """The source's Noise2Net, with the kernel sizes and dilations that it drew and weights from torch's seed."""
    source = generator(SEED)
    blocks = []
    for sizes, dilations in draws["blocks"]:
        expand = noise2net.initial_weight((64, 3, 1, 1), source)
        convs = [noise2net.initial_weight((16, 16, size, size), source) for size in sizes]
        project = noise2net.initial_weight((3, 64, 1, 1), source)
        blocks.append(noise2net.Block(expand, convs, dilations, project))
    with patch.object(noise2net, "make_noise2net", lambda seed: blocks):
        return noise2net.noise2net(small_image(12), [0], [draws["epsilon"]])


def comparisons() -> Iterator[tuple[str, Tensor, Tensor]]:
    """(case, ours, the source's)."""
    expected = load_file(FILE)
    with safe_open(FILE, "pt") as file:
        draws = json.loads(file.metadata()["draws"])
    for case, drawn in draws.items():
        found = ours(case, drawn)
        wanted = {name.partition(":")[2]: value for name, value in expected.items() if name.startswith(f"{case}:")}
        if set(found) != set(wanted):
            raise ValueError(f"{case} changes {sorted(found)}, in the source {sorted(wanted)}")
        kind, _, option = case.rpartition("_")
        yield (
            f"{NAMES[kind]}, option {option}",
            *(torch.cat([tensors[name].flatten() for name in sorted(wanted)]) for tensors in (found, wanted)),
        )
