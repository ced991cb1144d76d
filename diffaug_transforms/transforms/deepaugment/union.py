"""The union of original and distorted images, from which DeepAugment with AugMix draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torchvision.transforms import v2

from ...arguments import check_instance
from ...images import batch_shape, from_batch, to_batch, transform_sample
from ...without_waiting import LateChecks, send
from .transform import DeepAugment


class DeepAugmentUnion(v2.Transform):
    """Each image stays as it is or goes through one of the networks, all with the same probability.

    This is a draw from the union of the original images and a distorted copy of them for each network. The published
    code of DeepAugment joins such copies to one data set. It takes what ``DeepAugment`` takes.

    Args:
        networks: one or several DeepAugment.
    """

    def __init__(self, networks: Sequence[DeepAugment]) -> None:
        super().__init__()
        self.networks = list(networks)
        self._late_checks = LateChecks()

    def forward(self, *inputs: Any) -> Any:
        """The inputs with their images augmented. Everything else in them comes back as the same objects."""
        return transform_sample(self, inputs if len(inputs) > 1 else inputs[0])

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw for each image of the first input.

        Returns:
            Tensors (B,) on the CPU. ``choice`` int64: 0 for the image itself, k for the k-th network. ``k.name``: what
            that network draws for the images that chose it, and 0 for the others.
        """
        (batch, *_), _ = batch_shape(flat_inputs[0])
        choice = torch.randint(1 + len(self.networks), (batch,))
        params = {"choice": choice}
        for k, network in enumerate(self.networks, start=1):
            chosen = choice == k
            for name, values in network.make_params([torch.empty(int(chosen.sum()), 3, 1, 1)]).items():
                params[f"{k}.{name}"] = values.new_zeros(batch).masked_scatter(chosen, values)
        return params

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply a draw."""
        images, choice = to_batch(inpt, self._late_checks), params["choice"]
        for k, network in enumerate(self.networks, start=1):
            prefix, chosen = f"{k}.", choice == k
            draw = {name.removeprefix(prefix): params[name][chosen] for name in params if name.startswith(prefix)}
            index = send(chosen.nonzero().flatten(), images.device)
            images = images.index_copy(0, index, network.transform(images[index], draw))
        changed = send(choice.nonzero().flatten(), images.device)
        return from_batch(images[changed], inpt, changed)


def as_deepaugments(deepaugment: Any) -> list[DeepAugment]:
    """One or several as a list. Of None, the default."""
    if deepaugment is None:
        return [DeepAugment()]
    transforms = list(deepaugment) if isinstance(deepaugment, (list, tuple)) and deepaugment else [deepaugment]
    for transform in transforms:
        check_instance("deepaugment", transform, DeepAugment, ", several in a list, or None")
    return transforms
