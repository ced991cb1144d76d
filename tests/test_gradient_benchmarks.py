"""The benchmark of input gradients by hand, on oracles whose gradients are known, and from end to end."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from diffaug_transforms import DiffAug, ScoreNetwork
from diffaug_transforms.robustness import input_gradient
from diffaug_transforms.score import NoiseSchedule

from .benchmark_runs import write_classifier, write_dataset
from .conftest import GaussianOracle, tiny_unet

for module in ("datasets", "matplotlib"):
    pytest.importorskip(module)

import gradient_modes  # noqa: E402
import gradients  # noqa: E402
from gradient_pictures import stretch  # noqa: E402
from gradient_tables import gradient_effect, gradient_table  # noqa: E402
from gradients import CHANCE  # noqa: E402


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(number: int = 3, size: int = 8) -> Tensor:
    return 0.3 + 0.4 * torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(0))


def linear_classifier(size: int = 8, classes: int = 5) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, classes)).eval()


class TwoClasses(nn.Module):
    """The exact noise prediction where class k is N(means[k], variance), per pixel; the last label is no class.

    With the classes equally likely, log p_t(k | x_t) is a logistic regression of x_t.
    """

    def __init__(self, schedule: NoiseSchedule, variance: float = 0.04) -> None:
        super().__init__()
        self.schedule, self.variance = schedule, variance
        self.means = 0.5 * draw(2, 3, 4, 4, seed=3)
        self.config = SimpleNamespace(in_channels=3, sample_size=4, num_class_embeds=3)

    def class_scores(self, x_t: Tensor, t: int) -> Tensor:
        """(B, 2, C, H, W)."""
        a, b = self.schedule.signal_scale[t], self.schedule.noise_scale[t]
        return -(x_t[:, None] - a * self.means) / (a**2 * self.variance + b**2)

    def log_probabilities(self, x_t: Tensor, t: int) -> Tensor:
        a, b = self.schedule.signal_scale[t], self.schedule.noise_scale[t]
        distance = (x_t[:, None] - a * self.means).square().sum((2, 3, 4))
        return (-distance / (2 * (a**2 * self.variance + b**2))).log_softmax(dim=1)

    def forward(self, x_t: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        t = int(timesteps[0])
        shares = self.log_probabilities(x_t, t).exp()
        chosen = nn.functional.one_hot(labels, 3)[:, :2].float()
        weights = torch.where(labels[:, None] == 2, shares, chosen)
        scores = (weights[..., None, None, None] * self.class_scores(x_t, t)).sum(1)
        return -self.schedule.noise_scale[t] * scores


@pytest.mark.parametrize("t", [300, 600])
def test_the_networks_own_gradient_is_the_exact_classifiers(schedule, t):
    """s(x_t, y) - s(x_t) is the gradient of log p_t(y | x_t): a noise-aware exact classifier has score cosine 1."""
    oracle = TwoClasses(schedule)
    network = ScoreNetwork(oracle, schedule, null_class=2)
    batch, noise, labels = images(4, 4), draw(4, 3, 4, 4), torch.tensor([0, 1, 1, 0])
    x_t = gradient_modes.diffuse(2 * batch - 1, torch.full((4,), t), noise, schedule).requires_grad_()
    log_p = oracle.log_probabilities(x_t, t).gather(1, labels[:, None]).sum()
    (expected,) = torch.autograd.grad(log_p, x_t)
    found = gradient_modes.label_gradient(network, batch, labels, t, noise)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)

    def classifier(seen: Tensor) -> Tensor:  # of the noisy image, on [0, 1] and not shrunk
        return oracle.log_probabilities((2 * seen - 1) * schedule.signal_scale[t], t)

    noisy = gradient_modes.open_modes(DiffAug(network), batch, t, noise)["noisy"]
    _, of_log_probability = gradient_modes.of_classifier(classifier, noisy, labels)
    cosines = gradient_modes.score_cosine(of_log_probability, found)["score_cosine"]
    assert torch.allclose(cosines, torch.ones(4), atol=1e-4)


def test_gradients_of_each_mode(schedule):
    """Of a linear classifier on a Gaussian, whose denoiser scales every change by one known factor."""
    t, oracle = 100, GaussianOracle(schedule)
    augment = DiffAug(ScoreNetwork(oracle, schedule), differentiable=True, dtype=torch.float32)
    classifier, batch, noise = linear_classifier(), images(), draw(3, 3, 8, 8)
    modes = gradient_modes.open_modes(augment, batch, t, noise)
    abar = float(schedule.alphas_cumprod.double()[t])
    assert torch.allclose(modes["noisy"].seen, batch + ((1 - abar) / abar) ** 0.5 / 2 * noise, atol=1e-5)
    assert torch.equal(modes["partial"].images, modes["total"].seen)
    labels = torch.tensor([0, 1, 2])
    found = {name: gradient_modes.of_classifier(classifier, mode, labels) for name, mode in modes.items()}
    predicted = classifier(modes["partial"].seen).argmax(dim=1)
    rows = classifier[1].weight[predicted].reshape(3, 3, 8, 8)
    assert torch.allclose(found["partial"][0], rows, atol=1e-6)
    factor = abar * 0.04 / (abar * 0.04 + 1 - abar)  # d pred_x0 / d x_0; no value here is clipped
    assert torch.allclose(found["total"][0], factor * rows, atol=1e-5)
    assert torch.allclose(gradient_modes.pull_back(rows, modes["total"]), found["total"][0], atol=1e-6)
    at_noisy = input_gradient(classifier, batch, labels, through=lambda x: x + modes["noisy"].seen - batch)
    assert torch.allclose(found["noisy"][1], at_noisy, atol=1e-6)


def test_alignments_by_hand():
    """x = (1, 0) has mean .5, so x less it is (.5, -.5): cosine .6 with (3, 4) and .1 / sqrt(.5) without its mean."""
    x, g = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2), torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 2)
    values = {name: value.item() for name, value in gradient_modes.alignments(x, g).items()}
    assert values == pytest.approx({"alignment": 0.6, "cosine": 0.6, "centred_cosine": 0.1 / 0.5**0.5})
    assert gradient_modes.score_cosine(-g, x)["score_cosine"].item() == pytest.approx(-0.6)


def test_records_of_all_modes_and_chance(schedule):
    network = ScoreNetwork(TwoClasses(schedule), schedule, null_class=2)
    values = defaultdict(list)
    batch, labels = images(2, 4), torch.tensor([0, 1])
    noise_at = {t: draw(2, 3, 4, 4, seed=t) for t in (50, 300)}
    augment = DiffAug(network, differentiable=True, dtype=torch.float32)
    random = draw(2, 3, 4, 4)
    for _ in range(2):
        gradients.collect(values, [linear_classifier(4)], augment, batch, labels, random, noise_at)
    made = list(gradients.make_records(values, [{"model": "m", "recipe": "r", "seed": 7}], "n"))
    found = {(r["recipe"], r["mode"], r["timestep"], r["metric"]) for r in made}
    aligned = {"alignment", "cosine", "centred_cosine"}
    through_noise = [*(("r", mode) for mode in ("noisy", "partial", "total")), (CHANCE["recipe"], "total")]
    expected = {(recipe, "alone", 0, m) for recipe in ("r", CHANCE["recipe"]) for m in aligned}
    expected |= {(recipe, "alone", t, "score_cosine") for recipe in ("r", CHANCE["recipe"]) for t in noise_at}
    expected |= {(*who, t, m) for who in through_noise for t in noise_at for m in aligned | {"score_cosine"}}
    assert found == expected
    assert {r["n"] for r in made} == {4}
    own = gradient_modes.alignments(batch, random)["cosine"]
    (chance,) = [r for r in made if (r["recipe"], r["mode"], r["metric"]) == (CHANCE["recipe"], "alone", "cosine")]
    assert chance["value"] == pytest.approx(own.mean().item(), abs=1e-5)
    assert chance["standard_error"] == pytest.approx(own.repeat(2).std().item() / 2, abs=1e-5)


def test_stretching_cuts_the_ends():
    ramp = torch.linspace(-5, 5, 101).reshape(1, 1, 1, 101)
    shown = stretch(torch.cat([ramp, 1e-6 * ramp]))
    assert shown[0, 0, 0, [0, 1, 50, 99, 100]].tolist() == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-5)
    assert torch.allclose(shown[1], shown[0], atol=1e-3)


def test_the_gradient_tables_by_hand():
    values = {("baseline", 0): 0.10, ("baseline", 1): 0.12, ("diffaug", 0): 0.16, ("diffaug", 1): 0.16}
    values |= {(recipe, seed): 0.2 for recipe in ("augmix", "augmix+diffaug") for seed in (0, 1)}
    common = {"metric": "score_cosine", "timestep": 96}
    records = [{**common, "recipe": r, "seed": s, "mode": "total", "value": v} for (r, s), v in values.items()]
    records.append({**common, **CHANCE, "mode": "total", "value": 0.004})
    lines = gradient_table(records, "score_cosine").splitlines()
    assert lines[0] == "| classifier | gradient | t = 96 |"
    assert lines[2:4] == ["| baseline | total | 11.0 ± 1.0 |", "| diffaug | total | 16.0 ± 0.0 |"]
    assert lines[-1] == "| random gradient | total | 0.4 |"
    # Gains of 6 and 4 points: a mean of 5, a standard deviation of sqrt(2), a standard error of 1.
    assert gradient_effect(records, "score_cosine").splitlines()[2] == "| baseline to diffaug | total | +5.0 ± 1.0 |"


def test_the_script_from_end_to_end(tmp_path, monkeypatch, schedule):
    data = write_dataset(tmp_path / "data")
    network = ScoreNetwork(tiny_unet(num_class_embeds=11), schedule, null_class=10)
    network.save_pretrained(tmp_path / "network")
    folders = [write_classifier(tmp_path / recipe, recipe, 0) for recipe in ("baseline", "diffaug")]
    options = ["--data", data, "--network", tmp_path / "network", "--images", 2, "--timesteps", 20, 300]
    options += ["--pictures", 1, "--output", tmp_path / "out.json", *(f"--classifier={folder}" for folder in folders)]
    monkeypatch.setattr(sys, "argv", ["", *map(str, options)])
    gradients.main()
    records = json.loads((tmp_path / "out.json").read_text())["records"]
    assert {r["recipe"] for r in records} == {"baseline", "diffaug", CHANCE["recipe"]}
    assert all(-1 <= r["value"] <= 1 for r in records if r["metric"].endswith("cosine"))
    assert (tmp_path / "out.png").stat().st_size > 5000
