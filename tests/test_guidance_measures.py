"""What the guidance benchmark measures beside samples: accuracy, gradients and their cost by hand; and its tables."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.score import diffuse

from . import benchmark_runs  # noqa: F401  (benchmarks on the path)
from .conftest import tiny_unet

for module in ("datasets", "matplotlib"):
    pytest.importorskip(module)

import guidance_gradients  # noqa: E402
from adapted_images import draw_noise  # noqa: E402
from guidance_tables import accuracy_table, alignment_table, cost_table, guidance_table  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture
def classes_network(schedule) -> ScoreNetwork:
    """Ten classes and a null class."""
    return ScoreNetwork(tiny_unet(num_class_embeds=11), schedule, null_class=10)


class BrightnessClassifier:
    """Right where the noisy image's mean has the label's sign, so that it knows no late time."""

    def __call__(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        brightness = x_t.mean((1, 2, 3)) * (timesteps < 500)
        return torch.stack([-brightness, brightness], dim=1)


def test_accuracy_over_time(classes_network):
    labels = torch.arange(200) % 2
    images = (255 * labels).to(torch.uint8)[:, None, None, None].expand(-1, 3, 16, 16)
    found = list(guidance_gradients.accuracy(BrightnessClassifier(), classes_network, images, labels, 0, 64))
    value = {r["quarter"]: r["value"] for r in found}
    assert value[1] == 100
    assert value[3] == pytest.approx(50, abs=20)  # always the first class
    assert sum(r["n"] for r in found[1:]) == found[0]["n"] == 200
    assert value[0] == pytest.approx(sum(r["value"] * r["n"] for r in found[1:]) / 200, abs=1e-3)


def test_alignment_with_the_networks_own_gradient(classes_network, schedule):
    """A classifier whose gradient is a known multiple of the network's: cosine -1, and that multiple."""
    network, t = classes_network, 300
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels, timesteps = torch.tensor([4, 7]), torch.tensor([t, t])
    noise = draw_noise([0, 1], 1, (3, 16, 16), seed=5)[0]
    x_t = diffuse(images.float() / 127.5 - 1, timesteps, noise, schedule)
    own = network.score(x_t, timesteps, labels) - network.score(x_t, timesteps)

    def classifier(x: Tensor, timesteps: Tensor) -> Tensor:
        """log p of the label is -.5 x own: the others' logits make up for the normalisation."""
        log_p = -0.5 * ((x - x_t) * own).sum((1, 2, 3)) - 1
        rest = torch.log1p(-log_p.exp()) - torch.tensor(9.0).log()
        return torch.where(torch.arange(10) == labels[:, None], log_p[:, None], rest[:, None])

    found = list(guidance_gradients.alignment(classifier, network, images, labels, [t], seed=5))
    assert {r["metric"]: r["value"] for r in found} == pytest.approx({"score_cosine": -1, "norm_ratio": 0.5}, abs=1e-3)
    unlabelled = SimpleNamespace(null_class=None)
    assert list(guidance_gradients.alignment(classifier, unlabelled, images, labels, [t], seed=5)) == []


def test_peak_memory_and_cost():
    def run(size: int) -> Tensor:
        first = torch.ones(size)
        second = first + 1
        del first
        return second + 1

    assert guidance_gradients.peak_bytes(lambda: run(250_000), CPU) == pytest.approx(2e6, rel=0.01)
    gradients = {guidance_gradients.REFERENCE: lambda: run(250_000), "denoise-augmented, total": lambda: run(750_000)}
    found = {(r["recipe"], r["metric"]): r["value"] for r in guidance_gradients.cost(gradients, 5, 3, CPU)}
    assert found["denoise-augmented, total", "memory_ratio"] == pytest.approx(3, rel=0.01)
    assert found[guidance_gradients.REFERENCE, "time_ratio"] == 1
    assert found["denoise-augmented, total", "peak_bytes"] == pytest.approx(6e6 / 5, rel=0.01)


def test_the_tables_by_hand():
    common = {"extractor": "mine", "reference": "test", "n": 9, "n_reference": 8, "sampler": "ddim-25"}
    samples = [
        {**common, "recipe": recipe, "mode": mode, "scale": scale, "seed": seed, "metric": metric, "value": value}
        | ({"layer": "3"} if metric == "sfid" else {})
        for recipe, mode, scale, seed, fid in [
            ("real images", "", 0.0, 0, 1.0),
            ("noisy", "total", 2.0, 0, 10.0),
            ("noisy", "total", 2.0, 1, 12.0),
            ("denoise-augmented", "partial", 1.0, 0, 9.0),
        ]
        for metric, value in (("fid", fid), ("sfid", 20.0), ("precision", 0.5))
    ]
    judged = [
        {
            "recipe": "noisy",
            "mode": "diffused",
            "seed": s,
            "metric": "accuracy",
            "quarter": q,
            "value": 50.0 + q + 2 * s,
        }
        for s in (0, 1)
        for q in (0, 1, 4)
    ]
    lines = guidance_table(samples + judged).splitlines()
    assert lines[0].startswith("Features: mine, sFID's from its layer `3`. 9 samples in each line, ddim-25, all with")
    assert lines[4].startswith("| real images |  |  | 1.00 | 20.00 |  | 0.500 |")
    assert lines[5].startswith("| noisy | 2 | 51.0 ± 1.0 | 11.00 ± 1.00 | 20.00 ± 0.00 |")
    assert lines[6].startswith("| denoise-augmented, partial | 1 |  | 9.00 |")
    assert "| noisy | 51.0 ± 1.0 | 52.0 ± 1.0 | 55.0 ± 1.0 |" in accuracy_table(samples + judged)
    # Beside another classifier: what it has more, paired by seed.
    others = [{**r, "recipe": "denoise-augmented", "value": r["value"] + 1 + r["seed"]} for r in judged]
    assert "| the latter's gain | +1.5 ± 0.5 | +1.5 ± 0.5 | +1.5 ± 0.5 |" in accuracy_table(samples + judged + others)
    common = {"mode": "total", "seed": 0, "metric": "score_cosine"}
    cosines = [{**common, "recipe": "noisy", "timestep": t, "value": t / 1000} for t in (9, 50)]
    assert alignment_table(cosines).splitlines()[2:] == ["| noisy | 0.009 | 0.050 |"]
    cosines += [{**r, "recipe": "denoise-augmented", "value": 0.1} for r in cosines]
    assert alignment_table(cosines).splitlines()[-1] == "| total over noisy | +0.091 | +0.050 |"
    values = {"time_ratio": 2.5, "memory_ratio": 6.0, "seconds_per_image": 0.02, "peak_bytes": 3 * 2**20}
    costs = [{"recipe": "network call", "mode": "cost", "metric": m, "value": value} for m, value in values.items()]
    assert cost_table(costs).splitlines()[2] == "| network call | 2.50 | 6.00 | 20.0 | 3.0 |"
