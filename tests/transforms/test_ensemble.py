from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from diffaug_transforms import DiffAugEnsemble, ScoreNetwork
from diffaug_transforms.transforms import SelfEnsemble
from diffaug_transforms.transforms.ensemble import denoised_views, log_mean_probabilities
from tests import contracts
from tests.conftest import GaussianOracle

SIZE = 16


@pytest.fixture
def make(classifier, network):
    return lambda **options: DiffAugEnsemble(classifier, network, **{"dtype": torch.float32, **options})


def test_mean_of_probabilities_by_hand():
    logits = torch.tensor([[[0.0, 0.0]], [[torch.log(torch.tensor(3.0)), 0.0]]])
    # softmax: (1/2, 1/2) and (3/4, 1/4); mean: (5/8, 3/8)
    torch.testing.assert_close(log_mean_probabilities(logits).exp(), torch.tensor([[0.625, 0.375]]))
    huge = torch.tensor([[[1e4, 0.0]], [[0.0, 1e4]]])
    torch.testing.assert_close(log_mean_probabilities(huge).exp(), torch.tensor([[0.5, 0.5]]))


def test_output_is_the_mean_over_the_views_of_the_noise_passed_in(make, classifier):
    ensemble, batch = make(timesteps=[0, 30, 200]), contracts.images(SIZE)
    noise = torch.randn(2, 4, 3, SIZE, SIZE)
    views = ensemble.views(batch, noise)
    assert torch.equal(views[0], batch)
    probabilities = torch.stack([classifier(view).softmax(-1) for view in views]).mean(0)
    torch.testing.assert_close(ensemble(batch, noise).exp(), probabilities)
    assert torch.equal(ensemble.predict_proba(batch, noise), ensemble(batch, noise).detach().exp())
    with pytest.raises(ValueError, match=r"noise must be \(\|S without 0\|, B, C, H, W\), \(2, 4, 3, 16, 16\). Got"):
        ensemble(batch, noise[:1])


def test_log_probabilities_and_predict_proba(make, classifier, network):
    ensemble, batch = make(), contracts.images(SIZE)
    output = contracts.seeded(ensemble, batch)
    assert output.shape == (4, 7)
    assert len(ensemble.views(batch)) == len(network.ensemble_timesteps) == 10  # by default
    torch.testing.assert_close(output.exp().sum(1), torch.ones(4))
    torch.testing.assert_close(contracts.seeded(ensemble.predict_proba, batch), output.exp())
    torch.testing.assert_close(make(timesteps=0)(batch), classifier(batch).log_softmax(-1))


def test_fresh_noise_for_every_timestep_and_image(make):
    views = make(timesteps=[500, 500]).views(contracts.images(SIZE, batch=1).expand(3, -1, -1, -1))
    flat = views.flatten(0, 1)
    assert len({view.sum().item() for view in flat}) == 6


def test_one_network_call_for_all_views(make, network):
    seen = []
    network.unet.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    make(timesteps=[0, 10, 20, 30])(contracts.images(SIZE))
    assert seen == [12]
    seen.clear()
    make(timesteps=[0, 10, 20, 30], max_batch=5)(contracts.images(SIZE))
    assert seen == [4, 4, 4]


def test_normalize_comes_after_the_denoising(network):
    seen = []

    class Records(nn.Module):
        def forward(self, images):
            seen.append(images)
            return images.flatten(1)[:, :2]

    normalize = v2.Normalize([0.5] * 3, [0.25] * 3)
    batch = contracts.images(SIZE)
    for form in (normalize, ([0.5] * 3, [0.25] * 3)):
        DiffAugEnsemble(Records(), network, timesteps=0, normalize=form)(batch)
        torch.testing.assert_close(seen.pop(), normalize(batch))


def test_on_the_oracle_the_views_are_exact(schedule):
    oracle = GaussianOracle(schedule)
    ensemble = DiffAugEnsemble(nn.Flatten(), ScoreNetwork(oracle, schedule), timesteps=[100], dtype=torch.float32)
    batch, noise = contracts.images(8), torch.randn(1, 4, 3, 8, 8)
    x_t = schedule.signal_scale[100] * (batch * 2 - 1) + schedule.noise_scale[100] * noise[0]
    exact = (oracle.posterior_mean(x_t, torch.full((4,), 100)).clamp(-1, 1) + 1) / 2
    torch.testing.assert_close(ensemble.views(batch, noise)[0], exact.float(), rtol=0, atol=1e-5)


def test_probabilities_carry_no_gradient(make, classifier):
    assert not make(timesteps=[0, 10]).predict_proba(contracts.images(SIZE)).requires_grad
    assert not SelfEnsemble(classifier, lambda x: x).predict_proba(contracts.images(SIZE)).requires_grad


def test_views_need_no_classifier(make):
    ensemble, batch, noise = make(), contracts.images(SIZE), torch.randn(2, 4, 3, SIZE, SIZE)
    views = denoised_views(ensemble.denoiser, batch, [20, 0, 300], noise)
    assert torch.equal(views[1], batch)
    assert views.shape == (3, 4, 3, SIZE, SIZE)
    assert torch.equal(denoised_views(ensemble.denoiser, batch, [0, 0], noise[:0]), batch.expand(2, -1, -1, -1, -1))


def test_self_ensemble_is_the_mean_by_hand():
    """p = (1/2, 1/2) for the image, q = (3/4, 1/4) for its adapted version."""
    logits = {0.0: [0.0, 0.0], 1.0: [torch.log(torch.tensor(3.0)).item(), 0.0]}

    class ByBrightness(nn.Module):
        def forward(self, images):
            return torch.tensor([logits[round(image.mean().item())] for image in images])

    robust = SelfEnsemble(ByBrightness(), lambda images: 1 - images)
    batch = torch.zeros(2, 3, 4, 4)
    expected = torch.tensor([[0.625, 0.375]] * 2)
    torch.testing.assert_close(robust(batch).exp(), expected)
    torch.testing.assert_close(robust.predict_proba((batch * 255).to(torch.uint8)), expected)
    assert SelfEnsemble(nn.Flatten(), lambda images: images)(batch[:0]).shape == (0, 48)


def test_self_ensemble_refuses_what_is_no_adaptation(classifier):
    with pytest.raises(TypeError, match="adapt must be callable. Got 3"):
        SelfEnsemble(classifier, 3)
    batch = contracts.images(SIZE)
    with pytest.raises(ValueError, match=r"adapt must return its images' shape, \(4, 3, 16, 16\). Got \(4, 3, 8, 8\)"):
        SelfEnsemble(classifier, lambda images: images[..., :8, :8])(batch)
    with pytest.raises(TypeError, match="adapt must return images, a tensor. Got None"):
        SelfEnsemble(classifier, lambda images: None)(batch)
    with pytest.raises(ValueError, match="must be finite and in"):
        SelfEnsemble(classifier, lambda images: images * 3)(batch)


def test_timesteps_take_effect_after_the_first_image(make):
    ensemble, batch = make(timesteps=[0, 10]), contracts.images(SIZE)
    ensemble(batch)
    for timesteps, number in ((range(10, 40, 10), 3), (5, 1), (None, 10)):
        ensemble.timesteps = timesteps
        assert len(ensemble.views(batch)) == number
    ensemble.timesteps = [1000]
    with pytest.raises(ValueError, match="for this network. Got 1000"):
        ensemble(batch)
