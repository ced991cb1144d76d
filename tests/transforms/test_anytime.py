from __future__ import annotations

import pytest
import torch
from torch import nn

from diffaug_transforms import DiffAugEnsemble, ScoreNetwork
from diffaug_transforms.transforms import AnytimeEnsemble
from diffaug_transforms.transforms.anytime import decided
from tests import contracts
from tests.conftest import GaussianOracle

SIZE = 8


@pytest.fixture
def make(schedule):
    """Ensembles over the oracle, with a linear classifier as sure as asked: at 30 most views are, some are not."""

    def build(sharpness=30.0, timesteps=(0, 10, 20, 40, 80, 160), classes=3, **options):
        torch.manual_seed(1)
        classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, classes)).eval()
        with torch.no_grad():
            classifier[1].weight.mul_(sharpness)
        network = ScoreNetwork(GaussianOracle(schedule), schedule)
        return DiffAugEnsemble(classifier, network, timesteps=timesteps, dtype=torch.float32, **options)

    return build


@pytest.mark.parametrize(
    ("total", "seen", "remaining", "expected"),
    [
        ([3.0, 0.0, 0.0], 3, 2, True),
        ([3.0, 0.0, 0.0], 3, 3, False),  # three views may all say another class: a tie
        ([2.5, 0.5, 0.0], 3, 2, False),  # exactly 2 ahead of 2: a tie
        ([0.3, 2.6, 0.1], 3, 2, True),
        ([2.50004, 0.49996, 0.0], 3, 2, False),  # ahead by less than rounding may be
        ([1.0, 1.0, 1.0], 3, 0, True),
        ([2.0], 2, 5, True),
    ],
)
def test_decided_by_hand(total, seen, remaining, expected):
    assert decided(torch.tensor([total]), seen, remaining).tolist() == [expected]


def test_ten_sure_views_are_decided_by_the_sixth():
    sure = torch.tensor([[1.0, 0.0]])
    assert [bool(decided(sure * seen, seen, 10 - seen)) for seen in range(1, 11)] == [False] * 5 + [True] * 5


def test_confidence_by_hand():
    total = torch.tensor([[1.8, 0.2], [1.7, 0.3], [0.2, 1.8]])
    assert decided(total, 2, 8, confidence=0.875).tolist() == [True, False, True]
    assert decided(total, 2, 8, confidence=0.875, min_views=3).tolist() == [False] * 3
    assert decided(total / 2, 1, 8, confidence=0.875).tolist() == [False] * 3
    assert decided(total / 2, 1, 8, confidence=0.875, min_views=1).tolist() == [True, False, True]


def test_no_later_view_can_change_a_decided_answer():
    """The worst the views to come can do is to be sure of one other class, each of them; random ones do less."""
    generator = torch.Generator().manual_seed(0)
    views = (torch.randn(9, 4000, 4, generator=generator) * 6).softmax(-1)
    counts = []
    for seen in range(1, 10):
        total, remaining = views[:seen].sum(0), 9 - seen
        done = decided(total, seen, remaining)
        answer, kept = total.argmax(1), total[done]
        for rival in range(4):
            worst = kept + remaining * nn.functional.one_hot(torch.tensor(rival), 4)
            assert torch.equal(worst.argmax(1), answer[done])
        assert torch.equal((kept + views[seen:].sum(0)[done]).argmax(1), answer[done])
        counts.append(int(done.sum()))
    assert counts == sorted(counts)
    assert counts[3] == 0 < counts[4] < counts[-1] == 4000


def test_the_bound_is_tight():
    """What is just not decided can flip: views sure of the second class put it ahead."""
    generator = torch.Generator().manual_seed(0)
    total = (torch.randn(5, 4000, 4, generator=generator) * 6).softmax(-1).sum(0)
    lead = total.topk(2).values[:, 0] - total.topk(2).values[:, 1]
    flippable = lead < 4 - 1e-3
    second = total.topk(2).indices[:, 1]
    flipped = (total + 4 * nn.functional.one_hot(second, 4)).argmax(1) == second
    assert flipped[flippable].all()
    assert not decided(total, 5, 4)[flippable].any()
    assert decided(total, 5, 4)[lead > 4 + 1e-3].all()
    assert flippable.any()
    assert (lead > 4 + 1e-3).any()


@pytest.mark.parametrize("timesteps", [(0, 10, 20, 40, 80, 160), (400, 30, 30, 0, 200, 0, 300), (500, 600), 7, 0])
@pytest.mark.parametrize("max_batch", [None, 33])
def test_exact_answers_are_the_whole_ensembles(make, timesteps, max_batch):
    ensemble = make(timesteps=timesteps, max_batch=max_batch)
    anytime = AnytimeEnsemble(ensemble)
    for seed in range(3):
        batch = contracts.images(SIZE, batch=100, seed=seed)
        prediction = contracts.seeded(anytime.predict, batch, seed=seed)
        whole = contracts.seeded(ensemble, batch, seed=seed)
        assert torch.equal(prediction.log_probabilities.argmax(1), whole.argmax(1))
        complete = prediction.views == len(ensemble.timesteps)
        torch.testing.assert_close(prediction.log_probabilities[complete], whole[complete], rtol=1e-3, atol=1e-3)


def test_some_images_stop_early_and_some_do_not(make):
    views = AnytimeEnsemble(make()).predict(contracts.images(SIZE, batch=200)).views
    assert 4 in views
    assert 6 in views
    assert views.min() == 4  # of 6, none can be decided by the third


def test_probabilities_are_means_over_the_views_seen(make):
    ensemble, batch = make(timesteps=(0, 10, 20, 40)), contracts.images(SIZE, batch=50)
    noise = torch.randn(3, 50, 3, SIZE, SIZE)
    probabilities = ensemble.classify(ensemble.views(batch, noise)).softmax(-1)
    prediction = AnytimeEnsemble(ensemble, confidence=0.7).predict(batch, noise)
    assert set(prediction.views.tolist()) > {2, 4}
    for i, seen in enumerate(prediction.views):
        expected = probabilities[:seen, i].mean(0)
        torch.testing.assert_close(prediction.log_probabilities[i].exp(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("timesteps", [(0, 10, 20, 40, 80, 160), (10, 0, 10, 0, 20), (5, 6, 7)])
@pytest.mark.parametrize("options", [{}, {"confidence": 0.6}, {"confidence": 0.9, "min_views": 1}])
def test_network_calls_are_those_made(make, timesteps, options):
    ensemble, seen = make(timesteps=timesteps, max_batch=16), []
    ensemble.denoiser.network.unet.register_forward_hook(lambda unet, inputs, output: seen.append(len(inputs[0])))
    prediction = AnytimeEnsemble(ensemble, **options).predict(contracts.images(SIZE, batch=40))
    assert prediction.network_calls.sum() == sum(seen)
    assert max(seen) <= 16
    moved = torch.tensor([t > 0 for t in timesteps]).cumsum(0)
    assert torch.equal(prediction.network_calls, moved[prediction.views - 1])
    assert prediction.views.dtype == prediction.network_calls.dtype == torch.int64


def test_confidence_and_min_views(make):
    ensemble, batch = make(), contracts.images(SIZE, batch=40)
    exact, early, later = (
        contracts.seeded(AnytimeEnsemble(ensemble, **options).predict, batch).views
        for options in ({}, {"confidence": 0.8}, {"confidence": 0.8, "min_views": 4})
    )
    assert (early <= exact).all()
    assert early.min() == 2
    assert later.min() == 4
    assert early.sum() < later.sum() <= exact.sum()
    assert (AnytimeEnsemble(ensemble, confidence=0.01, min_views=1).predict(batch).views == 1).all()


def test_the_networks_own_timesteps(make, network, classifier):
    ensemble = DiffAugEnsemble(classifier, network, dtype=torch.float32)
    batch = contracts.images(16)
    prediction = contracts.seeded(AnytimeEnsemble(ensemble).predict, batch)
    assert prediction.views.tolist() == [10] * 4  # an unsure classifier
    torch.testing.assert_close(prediction.log_probabilities, contracts.seeded(ensemble, batch), rtol=1e-3, atol=1e-3)


def test_forward_and_predict_proba(make):
    anytime, batch = AnytimeEnsemble(make()), contracts.images(SIZE)
    expected = contracts.seeded(anytime.predict, batch).log_probabilities
    assert expected.dtype == torch.float32
    assert torch.equal(contracts.seeded(anytime, batch), expected)
    torch.testing.assert_close(contracts.seeded(anytime.predict_proba, batch).sum(1), torch.ones(4))


def test_empty_batches_and_one_class(make):
    empty = AnytimeEnsemble(make()).predict(contracts.images(SIZE)[:0])
    assert [tuple(field.shape) for field in empty] == [(0, 3), (0,), (0,)]
    one = AnytimeEnsemble(make(classes=1)).predict(contracts.images(SIZE))
    assert (one.views == 1).all()
    assert torch.equal(one.log_probabilities, torch.zeros(4, 1))


def test_gradients_are_those_of_the_views_seen(make):
    ensemble, batch = make(), contracts.images(SIZE)
    noise, weight = torch.randn(5, 4, 3, SIZE, SIZE), ensemble.classifier[1].weight
    prediction = AnytimeEnsemble(ensemble).predict(batch, noise)
    prediction.log_probabilities[:, 0].sum().backward()
    gradient, weight.grad = weight.grad, None
    probabilities = ensemble.classify(ensemble.views(batch, noise)).softmax(-1)
    assert len(prediction.views.unique()) > 1
    sum(probabilities[:seen, i, 0].mean().log() for i, seen in enumerate(prediction.views)).backward()
    torch.testing.assert_close(gradient, weight.grad, rtol=1e-3, atol=1e-3)


def test_bad_input(make):
    ensemble = make()
    with pytest.raises(TypeError, match="ensemble must be a DiffAugEnsemble. Got Flatten"):
        AnytimeEnsemble(nn.Flatten())
    for confidence in (0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=rf"confidence must be in \(0.*, 1\]. Got {confidence}"):
            AnytimeEnsemble(ensemble, confidence=confidence)
    with pytest.raises(ValueError, match="min_views must be at least 1. Got 0"):
        AnytimeEnsemble(ensemble, min_views=0)
    with pytest.raises(TypeError, match="confidence must be a number. Got 'high'"):
        AnytimeEnsemble(ensemble, confidence="high")
    with pytest.raises(TypeError, match="min_views must be an integer. Got 2.5"):
        AnytimeEnsemble(ensemble, min_views=2.5)
    batch = contracts.images(SIZE)
    for call in (ensemble.views, AnytimeEnsemble(ensemble).predict):
        with pytest.raises(ValueError, match=r"noise must be .*\(5, 4, 3, 8, 8\). Got \(4, 4, 3, 8, 8\)"):
            call(batch, torch.randn(4, 4, 3, SIZE, SIZE))
