"""Purify: the known answer on Gaussian images, clean images untouched, and the contracts of every transform."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from diffaug_transforms import Purify, ScoreNetwork
from diffaug_transforms.score import Denoiser, NoiseSchedule, to_signed, to_unit
from diffaug_transforms.score.timesteps import nearest_timestep
from diffaug_transforms.transforms import SelfEnsemble, estimate_sigma
from tests import contracts
from tests.conftest import GaussianOracle
from tests.contracts import draw, images

F32 = {"dtype": torch.float32}
SIZE = 16
#: The contracts that do not ask for a random draw.
CONTRACTS = [
    contracts.check_pil,
    contracts.check_input_is_not_mutated,
    contracts.check_structures_pass_through,
    contracts.check_refused_samples,
    contracts.check_empty_batch,
    contracts.check_a_draw,
    contracts.check_pickles_and_copies,
]


@pytest.fixture
def make(network):
    return lambda: Purify(network, **F32)


@pytest.mark.parametrize("check", CONTRACTS, ids=lambda check: check.__name__)
def test_contract(check, make):
    check(make, SIZE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.uint8])
def test_type_shape_and_range(make, dtype):
    contracts.check_type_shape_and_range(make, SIZE, dtype)


def test_the_known_answer_on_gaussian_images(oracle):
    """Images are N(0.1, 0.04) on [-1, 1]. With noise of 2 sigma on it, the posterior mean is known in closed form."""
    sigma = 0.08
    x_0 = 0.1 + 0.2 * draw(64, 3, 8, 8, seed=1)
    clean = to_unit(x_0)
    noisy = (clean + sigma * draw(64, 3, 8, 8)).clamp(0, 1)
    purified = Purify(ScoreNetwork(oracle, oracle.schedule), sigma=sigma, **F32)(noisy)
    t = nearest_timestep(oracle.schedule.host_sigmas, 2 * sigma)
    variance = oracle.schedule.host_sigmas[t] ** 2
    gain = 0.04 / (0.04 + variance)
    expected = to_unit((0.1 + gain * (to_signed(noisy).double() - 0.1)).clamp(-1, 1))
    torch.testing.assert_close(purified.double(), expected, rtol=0, atol=2e-6)
    # It is the best answer: its mean squared error is the posterior variance, on [0, 1] a quarter of it.
    error = (purified - clean).square().mean().item()
    assert error == pytest.approx(0.04 * variance / (0.04 + variance) / 4, rel=0.05)
    for wrong in (sigma / 2, 2 * sigma):
        other = Purify(ScoreNetwork(oracle, oracle.schedule), sigma=wrong, **F32)(noisy)
        assert (other - clean).square().mean().item() > error


def test_each_image_gets_its_own_level(oracle):
    """Estimated on flat images, where it is nearly exact, and given as a tensor."""
    sigmas = torch.tensor([0.03, 0.06, 0.12, 0.2])
    noisy = (0.5 + sigmas.reshape(-1, 1, 1, 1) * draw(4, 3, 64, 64)).clamp(0, 1)
    purify = Purify(ScoreNetwork(oracle, oracle.schedule), gate=0, **F32)
    params = purify.make_params([noisy])
    torch.testing.assert_close(params["sigmas"], estimate_sigma(noisy))
    torch.testing.assert_close(params["sigmas"], sigmas, rtol=0.06, atol=0)
    wanted = [nearest_timestep(oracle.schedule.host_sigmas, 2 * sigma) for sigma in params["sigmas"].tolist()]
    assert params["timesteps"].tolist() == wanted
    given = Purify(ScoreNetwork(oracle, oracle.schedule), sigma=sigmas, **F32).make_params([noisy])
    assert given["sigmas"].tolist() == sigmas.tolist()
    assert given["selected"].all()


def test_clean_images_come_back_bit_for_bit(network):
    mixed = torch.cat(
        [torch.full((1, 3, 16, 16), 0.3), images(16, batch=1), torch.linspace(0, 1, 16).expand(1, 3, 16, -1)]
    )
    for batch in (mixed, mixed.half(), mixed.double(), (mixed * 255).byte()):
        output = Purify(network, **F32)(batch)
        assert [torch.equal(a, b) for a, b in zip(output, batch)] == [True, False, True]
    picture = F.to_pil_image(mixed[0])
    assert Purify(network)(picture).tobytes() == picture.tobytes()


def test_only_noisy_images_go_through_the_network(network, monkeypatch):
    seen = []
    forward = Denoiser.forward
    monkeypatch.setattr(Denoiser, "forward", lambda self, x, *args: seen.append(len(x)) or forward(self, x, *args))
    batch = torch.cat([torch.full((3, 3, 16, 16), 0.3), images(16, batch=2)])
    Purify(network)(batch)
    assert seen == [2]


def test_images_in_one_sample_have_their_own_levels(network):
    """Of one shape, in a tuple, in a list, and in a list of PIL images."""
    flat, noisy = torch.full((3, 16, 16), 0.3), images(16)[0]
    purify = Purify(network, **F32)
    alone = purify(noisy)
    listed = purify([flat, noisy])
    in_dict = purify({"a": F.to_pil_image(flat), "b": F.to_pil_image(noisy)})
    assert listed[0] is flat
    assert torch.equal(listed[1], alone)
    assert in_dict["a"].tobytes() == F.to_pil_image(flat).tobytes()
    assert in_dict["b"].tobytes() == purify(F.to_pil_image(noisy)).tobytes() != F.to_pil_image(noisy).tobytes()


@pytest.mark.filterwarnings("ignore:images of")  # far from the network's size
@settings(deadline=None, max_examples=20)
@given(st.integers(0, 5), st.integers(2, 20), st.integers(2, 20), st.floats(0, 2), st.integers(0, 2**31))
def test_any_batch_and_size(number, height, width, sigma, seed):
    """One at a time, together, and replayed: the same images, in [0, 1]."""
    schedule = NoiseSchedule.named("linear")
    purify = Purify(ScoreNetwork(GaussianOracle(schedule, size=16), schedule), sigma=sigma, **F32)
    batch = torch.rand(number, 3, height, width, generator=torch.Generator().manual_seed(seed))
    params = purify.make_params([batch])
    output = purify.transform(batch, params)
    assert output.shape == batch.shape
    assert all(0 <= value <= 1 for value in output.flatten().tolist())
    assert torch.equal(output, purify(batch))
    for i in range(number):
        torch.testing.assert_close(purify(batch[i]), output[i])
    if not sigma:
        assert torch.equal(output, batch)


def test_the_gate(network):
    noisy = (0.5 + 0.1 * draw(2, 3, 16, 16)).clamp(0, 1)
    assert not torch.equal(Purify(network)(noisy), noisy)
    assert torch.equal(Purify(network, gate=0.3)(noisy), noisy)
    assert torch.equal(Purify(network, sigma=0.1, gate=0.1)(noisy), noisy)  # at most the gate
    assert Purify(network, sigma=0.1).used_gate == 0
    assert Purify(network).used_gate == 0.035


def test_a_network_of_few_timesteps_gets_the_nearest(schedule, network):
    limited = ScoreNetwork(network.unet, schedule.limited((0.1, 0.5))).requires_grad_(False).eval()
    steps = [Purify(limited, sigma=sigma).make_params([images(16)])["timesteps"][0].item() for sigma in (0.001, 1.9)]
    assert steps == [limited.schedule.timesteps[0], limited.schedule.timesteps[-1]]


def test_it_composes(network, classifier):
    batch = images(16)
    purify = Purify(network, **F32)
    torch.testing.assert_close(nn.Sequential(purify, classifier)(batch), classifier(purify(batch)))
    both = SelfEnsemble(classifier, purify)(batch).exp()
    mean = (classifier(batch).softmax(1) + classifier(purify(batch)).softmax(1)) / 2
    torch.testing.assert_close(both, mean)
    pipeline = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), purify, v2.Normalize([0.5], [0.5])])
    assert pipeline(F.to_pil_image(batch[0])).shape == (3, 16, 16)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_and_exported(network, classifier):
    """Whole programs, with clean images in the batch."""
    batch = torch.cat([images(16, batch=3), torch.full((1, 3, 16, 16), 0.5)])
    robust = nn.Sequential(Purify(network, **F32), classifier)
    expected = robust(batch)
    with torch.no_grad():
        compiled = torch.compile(robust, fullgraph=True, backend="eager")(batch)
        exported = torch.export.export(robust, (batch,)).module()(batch)
    torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(exported, expected, rtol=1e-4, atol=1e-4)


def test_gradients_flow_only_if_asked_for(network):
    batch = images(16).requires_grad_()
    Purify(network, differentiable=True, **F32)(batch).sum().backward()
    assert batch.grad.abs().sum() > 0
    assert not Purify(network, **F32)(batch.detach()).requires_grad


def test_parts_of_a_batch(network):
    batch = images(16, batch=5)
    torch.testing.assert_close(Purify(network, max_batch=2, **F32)(batch), Purify(network, **F32)(batch))


def test_it_is_lazy_and_light(classifier):
    purify = Purify("a/repository-that-is-not-there")
    model = nn.Sequential(purify, classifier)
    assert len(pickle.dumps(purify)) < 5000
    assert set(model.state_dict()) == {f"1.{name}" for name in classifier.state_dict()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": -0.1}, "sigma must be at least 0. Got -0.1"),
        ({"sigma": float("nan")}, "sigma must be at least 0. Got nan"),
        ({"sigma": float("inf")}, "sigma must be at least 0. Got inf"),
        ({"sigma": "big"}, "sigma must be a number. Got 'big'"),
        ({"sigma": True}, "sigma must be a number. Got True"),
        ({"sigma": torch.tensor([0.1, -0.2])}, "sigma must be at least 0. Got -0.2"),
        ({"sigma": torch.tensor([0.1, torch.nan])}, "sigma must be at least 0. Got nan"),
        ({"sigma": torch.ones(2, 2)}, r"sigma must be a number or a tensor \(B,\) of numbers. Got"),
        ({"sigma": torch.tensor([True])}, r"sigma must be a number or a tensor \(B,\) of numbers. Got torch.bool"),
        ({"gate": -1}, "gate must be at least 0. Got -1"),
        ({"gate": float("nan")}, "gate must be at least 0. Got nan"),
        ({"gate": "0.1"}, "gate must be a number. Got '0.1'"),
        ({"max_batch": 0}, "max_batch must be at least 1. Got 0"),
        ({"dtype": torch.int64}, "dtype must be float16"),
        ({"network": 7}, "network must be a name, a path, a ScoreNetwork or a Denoiser. Got 7"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Purify(**options)


def test_bad_images(network, conditional):
    with pytest.raises(ValueError, match="sigma must have one entry for each of the 4 images. Got 3"):
        Purify(network, sigma=torch.tensor([0.1, 0.2, 0.3]))(images(16))
    with pytest.raises(ValueError, match="at least 2 x 2 pixels.*Got 1 x 16"):
        Purify(network)(images(16)[..., :1, :])
    with pytest.raises(ValueError, match="images must have 3 channels. Got 1"):
        Purify(network)(torch.full((2, 1, 16, 16), 0.5))  # clean, but checked
    with pytest.raises(ValueError, match="no null class"):
        Purify(conditional)(images(16))
