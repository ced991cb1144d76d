"""Run OpenAI's evaluator, with NumPy in place of TensorFlow, and write ``tests/reference/evaluator.safetensors``.

git clone https://github.com/openai/guided-diffusion SOURCE
python -m tests.fidelity.make_evaluator SOURCE
"""

from __future__ import annotations

import ast
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from scipy import linalg

from .evaluator import FILE, NUMBERS, features, probabilities


class NumpyWithBool:
    """NumPy with a name that it has dropped."""

    bool = np.bool_

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


class Sqrtm:
    """SciPy's linalg with an argument of sqrtm that it has dropped."""

    @staticmethod
    def sqrtm(matrix: Any, disp: bool = True) -> Any:
        return linalg.sqrtm(matrix) if disp else (linalg.sqrtm(matrix), None)


class DistanceBlock:
    """Stands in for the evaluator's, which computes on TensorFlow."""

    def __init__(self, session: Any) -> None:
        pass

    def pairwise_distances(self, first: Any, second: Any) -> Any:
        return np.square(first[:, None] - second).sum(-1)

    def less_thans(self, first: Any, first_radii: Any, second: Any, second_radii: Any) -> tuple[Any, Any]:
        distances = self.pairwise_distances(first, second)[..., None]
        return (distances <= second_radii).any(1), (distances <= first_radii[:, None]).any(0)


def main(folder: Path) -> None:
    wanted = ("FIDStatistics", "Evaluator", "ManifoldEstimator")
    script = (folder / "evaluations" / "evaluator.py").read_text()
    nodes = [node for node in ast.parse(script).body if getattr(node, "name", None) in wanted]
    script_names: dict[str, Any] = {
        "np": NumpyWithBool(), "linalg": Sqrtm, "warnings": warnings, "DistanceBlock": DistanceBlock,
        "_numpy_partition": lambda distances, kth, axis: [np.partition(distances, kth, axis)],
        **dict.fromkeys(("Optional", "Tuple", "Iterable", "Union"), dict),
    }  # fmt: skip
    future = ast.parse("from __future__ import annotations").body  # types of TensorFlow in signatures
    exec(compile(ast.Module([*future, *nodes], []), str(folder), "exec"), script_names)
    session = SimpleNamespace(run=lambda _, feed_dict: next(iter(feed_dict.values())))
    evaluator = script_names["Evaluator"].__new__(script_names["Evaluator"])
    vars(evaluator).update(sess=session, softmax=0, softmax_input=0, softmax_batch_size=512)
    evaluator.manifold_estimator = script_names["ManifoldEstimator"](session)
    found = {
        f"Inception Score, {n} images": evaluator.compute_inception_score(probabilities(n).numpy()) for n in NUMBERS
    }
    real, generated = (values.double().numpy() for values in features())
    found["precision"], found["recall"] = evaluator.compute_prec_recall(real, generated)
    statistics = [script_names["FIDStatistics"](x.mean(0), np.cov(x, rowvar=False)) for x in (real, generated)]
    found["FID"] = statistics[1].frechet_distance(statistics[0])
    save_file({name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}, FILE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
