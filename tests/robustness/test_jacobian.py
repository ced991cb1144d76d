"""The denoiser's Jacobian: Theorem 1 on oracles, both products against each other and against float64 differences."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from diffaug_transforms import ScoreNetwork
from diffaug_transforms.robustness import (
    jacobian,
    jacobian_vector_product,
    leading_directions,
    posterior_covariance,
    vector_jacobian_product,
)
from diffaug_transforms.score.functional import scales
from tests.conftest import GaussianOracle, tiny_unet
from tests.contracts import draw
from tests.mixture_oracle import MixtureOracle

PRODUCTS = [jacobian_vector_product, vector_jacobian_product]


def full_matrix(product, network: ScoreNetwork, x_t: Tensor, timestep: int, **options) -> Tensor:
    """What the product does with each unit vector of one x_t (C, H, W): the columns of a matrix."""
    number = x_t.numel()
    units = torch.eye(number).reshape(number, *x_t.shape)
    timesteps = torch.full((number,), timestep)
    return product(network, x_t.expand_as(units), timesteps, units, **options).flatten(1).T


@pytest.mark.parametrize("timestep", [5, 150, 400, 900])
@pytest.mark.parametrize("product", PRODUCTS)
def test_theorem_1_on_a_gaussian(schedule, product, timestep):
    """d x_hat_t / d x_t = Cov[m_t | x_t] / (1 - abar), the covariance that of conditioning a Gaussian."""
    oracle = GaussianOracle(schedule, size=2)
    abar = float(schedule.alphas_cumprod.double()[timestep])
    covariance = abar * oracle.variance * (1 - abar) / (abar * oracle.variance + 1 - abar) * torch.eye(12)
    jacobian = full_matrix(product, ScoreNetwork(oracle, schedule), draw(3, 2, 2), timestep)
    assert torch.allclose(abar**0.5 * jacobian, covariance / (1 - abar), rtol=0, atol=1e-5)


def mixture_point(oracle: MixtureOracle, timestep: int) -> Tensor:
    """An x_t between two components, where the posterior is far from a Gaussian's."""
    abar = oracle.abar[timestep]
    between = (oracle.means[0] + oracle.means[1]) / 2
    size = oracle.config.sample_size
    point = abar.sqrt() * between.reshape(3, size, size) + 0.1 * (1 - abar).sqrt() * draw(3, size, size)
    return point.float()


@pytest.mark.parametrize("timestep", [100, 250, 400, 900])
def test_theorem_1_and_the_covariance_on_a_mixture_of_gaussians(schedule, timestep):
    oracle = MixtureOracle(schedule)
    x_t, abar, network = mixture_point(oracle, timestep), oracle.abar[timestep], ScoreNetwork(oracle, schedule)
    covariance = oracle.posterior_covariance(x_t, timestep)
    expected = abar * covariance / (1 - abar)
    for product in PRODUCTS:
        jacobian = full_matrix(product, network, x_t, timestep)
        assert torch.allclose(abar.sqrt() * jacobian.double(), expected, rtol=0, atol=1e-5)
    if timestep <= 400:  # later its factor, (1 - abar) / abar, enlarges the rounding of float32
        found = full_matrix(posterior_covariance, network, x_t, timestep)
        assert torch.allclose(found.double(), covariance, rtol=1e-4, atol=1e-6)
    # More than a multiple of the identity: the components differ.
    assert (expected - expected.diag().diag()).abs().max() > 0.01 * expected.diag().max()


def test_both_products_are_of_one_matrix_and_of_float64_differences(network, schedule):
    """On a real U-Net: <w, J v> = <J^T w, v>, and J v is the slope of pred_x0, computed again in float64."""
    x_t, v, w = (draw(3, 3, 16, 16, seed=seed) for seed in range(3))
    timesteps = torch.tensor([10, 300, 800])
    forward = jacobian_vector_product(network, x_t, timesteps, v)
    backward = vector_jacobian_product(network, x_t, timesteps, w)
    assert torch.allclose((w * forward).sum((1, 2, 3)), (backward * v).sum((1, 2, 3)), rtol=1e-4, atol=1e-3)
    unet = copy.deepcopy(network.unet).double()
    signal, noise = (scale.double() for scale in scales(timesteps, schedule))

    def pred_x0(x: Tensor) -> Tensor:
        return (x - noise * unet(x, timesteps).sample) / signal

    step = 1e-4 * v.double()
    with torch.no_grad():
        slope = (pred_x0(x_t + step) - pred_x0(x_t - step)) / 2e-4
    assert torch.allclose(forward.double(), slope, rtol=1e-3, atol=1e-4 * float(slope.abs().max()))


@pytest.mark.parametrize("product", [*PRODUCTS, posterior_covariance])
def test_each_image_has_its_own_and_nothing_is_left_behind(network, product):
    before = copy.deepcopy(network.state_dict())
    x_t, v, timesteps = draw(2, 3, 16, 16), draw(2, 3, 16, 16, seed=1), torch.tensor([10, 300])
    together = product(network, x_t, timesteps, v)
    alone = torch.cat([product(network, x_t[i : i + 1], timesteps[i : i + 1], v[i : i + 1]) for i in range(2)])
    assert torch.allclose(together, alone, rtol=1e-3, atol=1e-4)
    assert (together.shape, together.dtype, together.requires_grad) == (x_t.shape, torch.float32, False)
    with torch.inference_mode():
        other = product(network, x_t.clone(), timesteps.clone(), v.clone())
    assert torch.allclose(other, together, rtol=1e-3, atol=1e-4)
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("product", PRODUCTS)
def test_labels_reach_the_network(conditional, product):
    x_t, v, timesteps = draw(2, 3, 16, 16), draw(2, 3, 16, 16, seed=1), torch.tensor([300, 300])
    seen = []
    conditional.unet.register_forward_hook(lambda module, inputs, output: seen.append(inputs[2].tolist()))
    product(conditional, x_t, timesteps, v, torch.tensor([0, 4]))
    assert seen == [[0, 4]]
    with pytest.raises(ValueError, match="needs labels"):
        product(conditional, x_t, timesteps, v)


def same_subspace(first: Tensor, second: Tensor) -> bool:
    """Whether rows of length 1 agree pair by pair but for their sign."""
    return torch.allclose((first * second).sum(1).abs(), torch.ones(len(first), dtype=first.dtype), atol=1e-3)


def test_leading_directions_of_a_network_are_its_right_singular_vectors(schedule):
    """A U-Net on 4x4 pixels, whose whole Jacobian, which is not symmetric, fits on a page."""
    network, x_t = ScoreNetwork(tiny_unet(), schedule), draw(3, 4, 4)
    columns, values, rows = torch.linalg.svd(full_matrix(jacobian_vector_product, network, x_t, 900))
    generator = torch.Generator().manual_seed(0)
    found = leading_directions(network, x_t, 900, k=3, iterations=20, generator=generator)
    assert found.directions.shape == (3, 3, 4, 4)
    assert torch.allclose(found.singular_values, values[:3], rtol=1e-3)
    assert same_subspace(found.directions.flatten(1), rows[:3])
    assert not same_subspace(found.directions.flatten(1), columns[:, :3].T)


def test_leading_directions_in_batches_and_with_labels(conditional):
    seen = []
    conditional.unet.register_forward_hook(lambda module, inputs, output: seen.append(inputs[2].tolist()))

    def run(max_batch: int | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        options = {"k": 3, "iterations": 1, "max_batch": max_batch, "generator": generator}
        return leading_directions(conditional, draw(3, 4, 4), 900, labels=torch.tensor([4]), **options).directions

    whole = run()
    assert seen == [[4] * 7] * 3
    assert torch.allclose(run(max_batch=5), whole, atol=1e-3)
    assert seen[3:] == [[4] * 5, [4] * 2] * 3


def test_all_directions_are_an_orthonormal_basis(schedule):
    network = ScoreNetwork(GaussianOracle(schedule, size=2), schedule)
    every = leading_directions(network, draw(3, 2, 2), 400, k=12, iterations=1).directions.flatten(1)
    assert torch.allclose(every @ every.T, torch.eye(12), atol=1e-5)


@pytest.mark.parametrize("product", [*PRODUCTS, posterior_covariance])
def test_bad_shapes_and_timesteps(network, product):
    x_t, timesteps = draw(1, 3, 16, 16), torch.tensor([10])
    with pytest.raises(ValueError, match=r"x_t must be \(B, 3, H, W\). Got shape \(3, 16, 16\)"):
        product(network, x_t[0], timesteps, x_t[0])
    with pytest.raises(ValueError, match=r"divisible by 2. Got shape \(1, 3, 16, 15\)"):
        product(network, x_t[..., :15], timesteps, x_t[..., :15])
    with pytest.raises(ValueError, match=r"vectors must be like x_t, \(1, 3, 16, 16\). Got \(2, 3, 16, 16\)"):
        product(network, x_t, timesteps, draw(2, 3, 16, 16))
    with pytest.raises(ValueError, match="0...999 for this network. Got 1000"):
        product(network, x_t, torch.tensor([1000]), x_t)
    with pytest.raises(TypeError, match="timesteps must be an int64 tensor .* Got 10"):
        product(network, x_t, 10, x_t)
    with pytest.raises(TypeError, match="vectors must be floating point .* Got None"):
        product(network, x_t, timesteps, None)
    with pytest.raises(TypeError, match="network must be a ScoreNetwork. Got 'cifar10'"):
        product("cifar10", x_t, timesteps, x_t)
    assert product(network, x_t[:0], timesteps[:0], x_t[:0]).shape == (0, 3, 16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be in 1...768. Got 0"),
        ({"k": 769}, "k must be in 1...768. Got 769"),
        ({"k": 2.0}, "k must be an integer. Got 2.0"),
        ({"timestep": 1000}, "timestep must be in 0...999. Got 1000"),
        ({"timestep": 1.5}, "timestep must be an integer. Got 1.5"),
        ({"generator": 42}, "generator must be a torch.Generator"),
        ({"iterations": 0}, "iterations must be at least 1. Got 0"),
        ({"max_batch": 0}, "max_batch must be at least 1. Got 0"),
        ({"x_t": draw(2, 3, 16, 16)}, r"one noisy image, \(C, H, W\). Got shape \(2, 3, 16, 16\)"),
    ],
)
def test_bad_arguments_of_leading_directions(network, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        leading_directions(network, **{"x_t": draw(3, 16, 16), "timestep": 10, **options})


def test_two_reverse_passes_are_forward_mode(network, monkeypatch):
    """The way for versions of torch that cannot differentiate group norms in forward mode."""
    x_t, v = draw(2, 3, 16, 16), draw(2, 3, 16, 16, seed=1)
    timesteps = torch.tensor([10, 300])
    products = []
    for forward_mode in (jacobian.FORWARD_MODE, False):
        monkeypatch.setattr(jacobian, "FORWARD_MODE", forward_mode)
        products.append(jacobian_vector_product(network, x_t, timesteps, v))
    torch.testing.assert_close(*products, rtol=1e-4, atol=1e-5)
