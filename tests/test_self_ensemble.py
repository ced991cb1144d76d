from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from diffaug_transforms import DiffAug
from diffaug_transforms.transforms import SelfEnsemble
from diffaug_transforms.transforms.self_ensemble import RULES

from . import contracts

SIZE = 16


def identity(images):
    return images


def negative(images):
    return 1 - images


def join(rule, p, q):
    return RULES[rule](torch.tensor(p).log(), torch.tensor(q).log()).exp()


# Row 1: q has the higher maximum, and the higher entropy (.693 and .802 nats). Row 2: p is surer by both.
P = [[0.5, 0.5, 0.0], [0.9, 0.05, 0.05]]
Q = [[0.2, 0.7, 0.1], [0.4, 0.3, 0.3]]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("mean", [[0.35, 0.6, 0.05], [0.65, 0.175, 0.175]]),
        ("confidence", [Q[0], P[1]]),
        ("entropy", [P[0], P[1]]),
        # Weights 5 : 7 and 9 : 4.
        ("confidence_mean", [[3.9 / 12, 7.4 / 12, 0.7 / 12], [9.7 / 13, 1.65 / 13, 1.65 / 13]]),
    ],
)
def test_rules_by_hand(rule, expected):
    torch.testing.assert_close(join(rule, P, Q), torch.tensor(expected))


def test_entropy_mean_by_hand():
    # H(1/2, 1/2, 0, 0) = log 2, H(1/4, ...) = 2 log 2: weights 2 : 1, the other's.
    expected = torch.tensor([[1.25 / 3, 1.25 / 3, 0.25 / 3, 0.25 / 3]])
    torch.testing.assert_close(join("entropy_mean", [[0.5, 0.5, 0.0, 0.0]], [[0.25] * 4]), expected)


def test_entropy_mean_of_certain_answers():
    certain, other, unsure = [[1.0, 0.0]], [[0.0, 1.0]], [[0.5, 0.5]]
    torch.testing.assert_close(join("entropy_mean", certain, other), torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(join("entropy_mean", certain, unsure), torch.tensor(certain))
    torch.testing.assert_close(join("entropy_mean", unsure, certain), torch.tensor(certain))


@pytest.mark.parametrize("rule", ["confidence", "entropy"])
def test_ties_go_to_the_adapted(rule):
    p, q = [[0.75, 0.25]], [[0.25, 0.75]]
    torch.testing.assert_close(join(rule, p, q), torch.tensor(q))
    torch.testing.assert_close(join(rule, q, p), torch.tensor(p))


@pytest.mark.parametrize("rule", RULES)
def test_random_answers_stay_probabilities_and_equal_answers_stay_themselves(rule):
    torch.manual_seed(0)
    log_p, log_q = (torch.randn(2, 200, 10) * 5).log_softmax(-1)
    torch.testing.assert_close(RULES[rule](log_p, log_q).exp().sum(-1), torch.ones(200))
    torch.testing.assert_close(RULES[rule](log_p, log_p), log_p)


@pytest.mark.parametrize("rule", RULES)
def test_huge_logits_stay_finite(rule):
    log_p, log_q = torch.tensor([[[1e4, 0.0, 5.0]], [[0.0, 1e4, 5.0]]]).log_softmax(-1)
    joined = RULES[rule](log_p, log_q)
    assert joined.isfinite().all()
    torch.testing.assert_close(joined.exp().sum(), torch.tensor(1.0))


@pytest.mark.parametrize("rule", RULES)
def test_forward_joins_the_original_and_the_adapted(classifier, rule):
    batch = contracts.images(SIZE)
    ensemble = SelfEnsemble(classifier, negative, rule=rule)
    expected = RULES[rule](classifier(batch).log_softmax(-1), classifier(1 - batch).log_softmax(-1))
    torch.testing.assert_close(ensemble(batch), expected)
    torch.testing.assert_close(ensemble.predict_proba(batch), expected.exp())


def test_mean_is_the_default(classifier):
    batch = contracts.images(SIZE)
    expected = (classifier(batch).softmax(-1) + classifier(1 - batch).softmax(-1)) / 2
    torch.testing.assert_close(SelfEnsemble(classifier, negative).predict_proba(batch), expected)


def test_adapt_sees_images_that_are_not_normalised(classifier):
    batch, seen = contracts.images(SIZE), []
    normalize = v2.Normalize([0.5] * 3, [0.25] * 3)
    expected = classifier(normalize(batch)).log_softmax(-1)
    for form in (normalize, ([0.5] * 3, [0.25] * 3)):
        ensemble = SelfEnsemble(classifier, lambda images: seen.append(images) or images, normalize=form)
        torch.testing.assert_close(ensemble(batch), expected)
        assert torch.equal(seen.pop(), batch)


def test_uint8_in_and_out_and_empty_batches(classifier):
    pixels = contracts.images(SIZE, dtype=torch.uint8)
    whole = SelfEnsemble(classifier, negative)
    torch.testing.assert_close(whole(pixels), whole(pixels / 255))
    rounded = SelfEnsemble(classifier, lambda images: ((1 - images) * 255).round().to(torch.uint8))
    torch.testing.assert_close(rounded(pixels), whole(pixels))
    brightest = SelfEnsemble(classifier, lambda images: images / images.amax())  # which fails on nothing
    assert brightest(pixels[:0]).shape == (0, 7)


def test_it_is_float32_for_a_half_precision_classifier(classifier):
    class Halved(nn.Module):
        def forward(self, images):
            return classifier(images).bfloat16()

    assert SelfEnsemble(Halved(), identity)(contracts.images(SIZE)).dtype == torch.float32


def test_around_diffaug_it_repeats_pickles_and_holds_the_classifier_alone(classifier, network):
    batch = contracts.images(SIZE)
    ensemble = SelfEnsemble(classifier, DiffAug(network, timesteps=[50], dtype=torch.float32), rule="confidence")
    output = contracts.seeded(ensemble, batch)
    assert torch.equal(contracts.seeded(pickle.loads(pickle.dumps(ensemble)), batch), output)
    assert not torch.equal(contracts.seeded(ensemble, batch, seed=1), output)
    assert set(ensemble.state_dict()) == {f"classifier.{name}" for name in classifier.state_dict()}


@pytest.mark.parametrize("rule", RULES)
def test_gradients_reach_the_classifier(classifier, rule):
    SelfEnsemble(classifier, negative, rule=rule)(contracts.images(SIZE))[:, 0].sum().backward()
    gradient = classifier[1].weight.grad
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_bad_input(classifier):
    batch = contracts.images(SIZE)
    with pytest.raises(ValueError, match="rule must be one of.*'mean'.*'entropy_mean'.*Got 'sum'"):
        SelfEnsemble(classifier, identity, rule="sum")
    with pytest.raises(TypeError, match="adapt must be callable. Got int"):
        SelfEnsemble(classifier, 3)
    with pytest.raises(ValueError, match=r"shape, \(4, 3, 16, 16\). Got \(4, 3, 8, 16\)"):
        SelfEnsemble(classifier, lambda images: images[:, :, :8])(batch)
    with pytest.raises(ValueError, match=r"finite and in \[0, 1\]"):
        SelfEnsemble(classifier, lambda images: images * 2 - 1)(batch)
    with pytest.raises(ValueError, match=r"finite and in \[0, 1\]"):
        SelfEnsemble(classifier, identity)(batch * math.nan)
