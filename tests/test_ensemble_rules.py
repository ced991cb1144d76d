"""The covariate-shift tables by hand, stopping and weighting rules replayed, network calls counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from diffaug_transforms import DiffAugEnsemble, ScoreNetwork
from diffaug_transforms.robustness import CORRUPTIONS, DDA
from diffaug_transforms.transforms import AnytimeEnsemble

from . import benchmark_runs  # noqa: F401

for module in ("accelerate", "cv2", "datasets"):
    pytest.importorskip(module)

import adaptation_speed  # noqa: E402
import ensemble_rules  # noqa: E402
from shift_tables import shift_table  # noqa: E402


@pytest.fixture
def gaussian(oracle, schedule) -> ScoreNetwork:
    return ScoreNetwork(oracle, schedule)


def shift_records(values: dict[tuple[str, str, int], float], severity: int = 5) -> list[dict[str, object]]:
    common = {"model": "m", "metric": "accuracy", "n": 10}
    return [
        {
            **common,
            "recipe": recipe,
            "seed": seed,
            "corruption": corruption,
            "severity": severity if corruption != "clean" else 0,
            "mode": mode,
            "timesteps": timesteps,
            "value": value,
        }
        for (recipe, corruption, seed), value in values.items()
        for mode, timesteps in (("default", ""), ("de", "network"), ("de", "paper"))
    ]


def test_the_table_by_hand():
    records = shift_records({("baseline", "fog", 0): 40, ("baseline", "snow", 0): 50, ("baseline", "clean", 0): 80})
    records += shift_records({("baseline", "fog", 1): 44, ("baseline", "snow", 1): 54, ("baseline", "clean", 1): 80})
    lines = shift_table(records).splitlines()
    assert lines[0] == "10 images of each of 2 parts, the same in every column."
    assert lines[2] == "| classifier | seeds | timesteps | Default | DE | clean, Default | clean, DE |"
    # Means 45 and 49: a mean of 47, a standard deviation of sqrt(8), a standard error of 2.
    assert lines[4] == "| m | 2 | network | 47.0 ± 2.0 | 47.0 ± 2.0 | 80.0 ± 0.0 | 80.0 ± 0.0 |"
    assert lines[5].startswith("| m | 2 | paper | 47.0 ± 2.0 |")


def test_mce_in_the_table():
    records = []
    for severity in range(1, 6):
        for recipe, value in (("baseline", 20.0), ("augmix", 60.0)):
            records += shift_records({(recipe, corruption, 0): value for corruption in CORRUPTIONS}, severity)
    table = shift_table(records, baseline="baseline")
    assert "mCE, Default | mCE, DE |" in table
    assert "| augmix | 1 | network | 60.0 | 60.0 | 50.0 | 50.0 |" in table  # errors .4 over .8


def test_the_replay_is_the_anytime_ensemble(gaussian):
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)).eval()
    classifier[1].weight.data *= 8
    steps = (0, 10, 10, 40, 80, 160)
    ensemble = DiffAugEnsemble(classifier, gaussian, timesteps=steps, dtype=torch.float32)
    images = torch.rand(64, 3, 8, 8)
    noise = ensemble.draw_noise(images)
    log_p = ensemble.classify(ensemble.views(images, noise)).log_softmax(dim=-1)
    for confidence, min_views in ((None, 2), (0.9, 2), (0.7, 3)):
        anytime = AnytimeEnsemble(ensemble, confidence=confidence, min_views=min_views)
        prediction = anytime.predict(images, noise)
        answers, calls = ensemble_rules.replay(log_p, steps, confidence, min_views)
        assert torch.equal(prediction.log_probabilities.argmax(dim=1), answers)
        assert torch.equal(prediction.network_calls, calls)
        assert 0 < calls.float().mean() < 5


def test_weights_by_hand():
    sure, even = torch.tensor([0.9, 0.1]), torch.tensor([0.4, 0.6])
    log_p = torch.stack([sure, even, even])[:, None].log()
    values = {r["method"]: r["value"] for r in ensemble_rules.judge(log_p, torch.tensor([0]), (0, 5, 9))}
    assert values["weights, mean"] == 100  # 1.7 against 1.3
    even_more = torch.stack([sure, *[torch.tensor([0.3, 0.7])] * 4])[:, None].log()
    values = {r["method"]: r["value"] for r in ensemble_rules.judge(even_more, torch.tensor([0]), (0, 1, 2, 3, 4))}
    assert values["weights, mean"] == 0  # 2.1 against 2.9
    assert values["weights, 1 / entropy"] == 0  # 1 / .325 and 1 / .611: 4.73 against 4.89
    assert values["weights, exp(-3 entropy)"] == 100  # .377 and .160: .531 against .486


def test_calls_are_counted(gaussian):
    identity = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
    images = torch.rand(2, 3, 8, 8)

    def calls(model: nn.Module) -> tuple[int, int]:
        def answer() -> Tensor:
            return model(images)

        return adaptation_speed.count_calls(gaussian, answer)

    assert calls(DiffAugEnsemble(identity, gaussian, timesteps=range(0, 451, 50))) == (18, 0)
    assert calls(DDA(gaussian, start_timestep=505)) == (100, 100)
    assert calls(identity) == (0, 0)
