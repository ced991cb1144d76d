"""The benchmark of the denoiser's Jacobian: by hand, on oracles whose scores are exact, and from end to end."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from diffaug_transforms import ScoreNetwork

from .benchmark_runs import write_dataset
from .conftest import GaussianOracle, tiny_unet
from .mixture_oracle import MixtureOracle

for module in ("datasets", "matplotlib"):
    pytest.importorskip(module)

import jacobian  # noqa: E402
import tables  # noqa: E402
from gradient_tables import jacobian_table  # noqa: E402


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def jacobian_options(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(**{"vectors": 2, "seed": 0, "leading_images": 2, "iterations": 4, **changes})


def test_theorem_1_on_a_gaussian(schedule):
    """Symmetric, and the error of 500 images is the posterior's variance, even beyond [-1, 1]."""
    oracle = GaussianOracle(schedule, variance=0.5)
    x_0 = oracle.mean + oracle.variance**0.5 * draw(500, 3, 8, 8)
    network, noise = ScoreNetwork(oracle, schedule), draw(500, 3, 8, 8, seed=1)
    for t in (50, 400):
        found = {r["metric"]: r for r in jacobian.of_random(network, x_0, t, noise, jacobian_options())}
        abar = float(schedule.alphas_cumprod.double()[t])
        variance = 0.5 * (1 - abar) / (0.5 * abar + 1 - abar)
        assert found["asymmetry"]["value"] < 1e-4
        assert found["predicted_mse"]["value"] == pytest.approx(variance, rel=1e-3)
        assert abs(found["mse_ratio"]["value"] - 1) < 4 * found["mse_ratio"]["standard_error"] < 0.05
        ratio = found["predicted_mse"]["value"] / found["mse"]["value"]
        assert found["mse_ratio"]["value"] == pytest.approx(ratio, rel=1e-3)


def test_theorem_1_on_a_mixture_of_gaussians(schedule):
    """Its posterior has more than one variance, and differs from image to image."""
    oracle = MixtureOracle(schedule)
    drawn = torch.multinomial(oracle.weights, 4000, replacement=True, generator=torch.Generator().manual_seed(0))
    x_0 = oracle.means[drawn] + oracle.variances[drawn].sqrt()[:, None] * draw(4000, 12).double()
    arguments = ScoreNetwork(oracle, schedule), x_0.float().reshape(-1, 3, 2, 2), 250, draw(4000, 3, 2, 2, seed=1)
    found = {r["metric"]: r for r in jacobian.of_random(*arguments, jacobian_options(vectors=4))}
    assert found["asymmetry"]["value"] < 1e-4
    assert abs(found["mse_ratio"]["value"] - 1) < 4 * found["mse_ratio"]["standard_error"] < 0.15
    leading = {(r["metric"], r.get("rank")): r for r in jacobian.of_leading(*arguments, jacobian_options())}
    assert leading["asymmetry", None]["value"] < 1e-4
    assert leading["singular_value", 1]["value"] > leading["singular_value", 5]["value"] > 0


class Matrix(nn.Module):
    """pred_x0 = M x_t on one-pixel images of two channels."""

    def __init__(self, *rows: tuple[float, float]) -> None:
        super().__init__()
        self.matrix = torch.tensor(rows, dtype=torch.float32)
        self.config = SimpleNamespace(in_channels=2, sample_size=1)

    def forward(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.einsum("ij,bjhw->bihw", self.matrix, x_t)


@pytest.mark.parametrize(
    ("matrix", "asymmetry"),
    [(((0, 1), (0, 0)), 2**0.5), (((0, 1), (-1, 0)), 2), (((0, 1), (1, 0)), 0)],
)
def test_asymmetry_by_hand(schedule, matrix, asymmetry):
    network = ScoreNetwork(Matrix(*matrix), schedule, prediction_type="sample")
    found, *_ = jacobian.of_random(network, draw(3, 2, 1, 1), 100, draw(3, 2, 1, 1, seed=1), jacobian_options())
    assert found["value"] == pytest.approx(asymmetry, abs=1e-5)


def test_the_jacobian_table_is_the_records():
    value = {"value": 0.25, "standard_error": 0.125, "timestep": 50}
    kinds = [("random", m) for m in ("asymmetry", "predicted_mse", "mse", "mse_ratio")] + [("leading", "asymmetry")]
    records = [{**value, "mode": mode, "metric": metric} for mode, metric in kinds]
    line = jacobian_table(records).splitlines()[2]
    assert line.startswith("| 50 | 0.250 ± 0.125 | 0.250 ± 0.125 | 0.2500 ± 0.1250 |")
    assert {"gradient_scores", "gradient_alignment", "gradient_effect", "jacobian"} <= set(tables.TABLES)


def test_the_script_from_end_to_end(tmp_path, monkeypatch, schedule):
    data = write_dataset(tmp_path / "data")
    ScoreNetwork(tiny_unet(), schedule).save_pretrained(tmp_path / "network")
    options = ["--data", data, "--network", tmp_path / "network", "--images", 2, "--timesteps", 300, "--vectors", 1]
    options += ["--leading-images", 2, "--iterations", 1, "--pictures", 1, "--picture-timesteps", 100]
    monkeypatch.setattr(sys, "argv", ["", *map(str, [*options, "--output", tmp_path / "out.json"])])
    jacobian.main()
    records = json.loads((tmp_path / "out.json").read_text())["records"]
    assert {(r["timestep"], r["mode"], r["metric"]) for r in records} == {
        *((300, "random", metric) for metric in ("asymmetry", "predicted_mse", "mse", "mse_ratio")),
        *((300, "leading", metric) for metric in ("asymmetry", "singular_value")),
    }
    assert (tmp_path / "out.png").stat().st_size > 5000
