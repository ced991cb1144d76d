"""Run OpenOOD's networks and metrics and write ``tests/reference/openood.safetensors``.

git clone https://github.com/Jingkang50/OpenOOD SOURCE
python -m tests.fidelity.make_openood SOURCE
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .openood import FILE, PERCENTILES, classifier, images


def load(path: Path) -> Any:
    """One file of the package, which needs much when it is imported whole."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise OSError(f"{path} is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Backbone(nn.Module):
    """The toy classifier as OpenOOD's networks call one."""

    def __init__(self) -> None:
        super().__init__()
        self.model = classifier()

    def forward(self, x: Tensor, return_feature: bool = False) -> Any:
        features = self.model[:-1](x)
        return (self.model[-1](features), features) if return_feature else self.model[-1](features)

    def get_fc_layer(self) -> nn.Module:
        return self.model[-1]


def main(folder: Path) -> None:
    networks = folder / "openood" / "networks"
    ash, scale, react = (load(networks / f"{name}_net.py") for name in ("ash", "scale", "react"))
    metrics, backbone = load(folder / "openood" / "evaluators" / "metrics.py"), Backbone()
    known, unknown = images()
    _, features = backbone(known, return_feature=True)

    def ash_of(rule: Any) -> Any:
        def confidence(x: Tensor) -> Tensor:
            ash.ash_b = rule  # ASHNet calls it by this name
            return ash.ASHNet(backbone).forward_threshold(x, PERCENTILES["ash-b"]).logsumexp(1)

        return confidence

    threshold = np.percentile(features.numpy().flatten(), PERCENTILES["react"])
    confidences = {
        "msp": lambda x: backbone(x).softmax(1).max(1).values,
        "react": lambda x: react.ReactNet(backbone).forward_threshold(x, threshold).logsumexp(1),
        "ash-b": ash_of(ash.ash_b),
        "ash-p": ash_of(ash.ash_p),
        "ash-s": ash_of(ash.ash_s),
        "scale": lambda x: scale.ScaleNet(backbone).forward_threshold(x, PERCENTILES["scale"]).logsumexp(1),
    }
    tensors = {}
    for method, confidence in confidences.items():
        tensors[method] = torch.cat([confidence(known), confidence(unknown)])
        labels = np.repeat([0, -1], [len(known), len(unknown)])
        found = metrics.auc_and_fpr_recall(tensors[method].numpy(), labels, 0.95)
        tensors[f"metrics of {method}"] = torch.tensor([found[0], found[3]], dtype=torch.float64)
    save_file(tensors, FILE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
