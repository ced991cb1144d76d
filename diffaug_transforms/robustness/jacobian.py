"""The denoiser's Jacobian: which changes of a noisy image pass through it, and which it stops.

For exact scores it is a posterior covariance (Sastry et al., NeurIPS 2024, Theorem 1): with the paper's denoised
x_hat_t = sqrt(abar) pred_x0 = E[m_t | x_t] and m_t = sqrt(abar) x_0,

    d x_hat_t / d x_t = Cov[m_t | x_t] / (1 - abar),   so   d pred_x0 / d x_t = sqrt(abar) / (1 - abar) Cov[x_0 | x_t].

abar is alphas_cumprod at t; with a variance-exploding schedule sqrt(abar) is 1 and 1 - abar is sigma^2. pred_x0 is not
clipped, and no matrix is ever formed: everything is products with vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..images import check_max_batch
from ..score import ScoreNetwork

#: Directions that a subspace iteration carries beyond those asked for; they speed it up (Halko et al. 2011, sec. 4).
OVERSAMPLING = 4


class LeadingDirections(NamedTuple):
    """Singular values (k,), descending, and directions (k, C, H, W) of length 1 in the space of x_t."""

    singular_values: Tensor
    directions: Tensor


def jacobian_vector_product(
    network: ScoreNetwork, x_t: Tensor, timesteps: Tensor, vectors: Tensor, labels: Tensor | None = None
) -> Tensor:
    """J v for each image, J = d pred_x0 / d x_t not clipped: how the denoised image follows a change v of x_t.

    Forward-mode differentiation: one call of the network, exact. Use float32: lower precisions cost most digits.

    Args:
        network: on the device of ``x_t``.
        x_t: float (B, C, H, W), sides divided by ``network.stride``.
        timesteps: int64 (B,) in 0...T-1.
        vectors: like x_t. For several at one image, repeat the image.
        labels: int64 (B,) for conditional networks, or None.

    Raises:
        ValueError: shapes that are not as above.

    Example:
        >>> network = load_score_network("cifar10")
        >>> x_t, timesteps = torch.randn(2, 3, 32, 32), torch.tensor([100, 500])
        >>> jacobian_vector_product(network, x_t, timesteps, torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """
    _check_shapes(network, x_t, vectors)
    # Forward mode takes no expanded tensors, and the fast kernels of attention do not have it.
    x, v = x_t.float().contiguous(), vectors.float().contiguous()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        product: Tensor = torch.func.jvp(_denoiser(network, timesteps, labels), (x,), (v,))[1]
    return product


def vector_jacobian_product(
    network: ScoreNetwork, x_t: Tensor, timesteps: Tensor, vectors: Tensor, labels: Tensor | None = None
) -> Tensor:
    """J^T v for each image: what of a gradient v by the denoised image reaches x_t. As ``jacobian_vector_product``.

    Reverse mode: one forward and one backward of the network. For exact scores J is symmetric and both are the same.

    Example:
        >>> network = load_score_network("cifar10")
        >>> x_t, timesteps = torch.randn(2, 3, 32, 32), torch.tensor([100, 500])
        >>> vector_jacobian_product(network, x_t, timesteps, torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """
    _check_shapes(network, x_t, vectors)
    with torch.inference_mode(False), torch.enable_grad():
        x = x_t.detach().float().clone().requires_grad_()
        (product,) = torch.autograd.grad(_denoiser(network, timesteps, labels)(x), x, vectors.float().clone())
    return product


def posterior_covariance(
    network: ScoreNetwork, x_t: Tensor, timesteps: Tensor, vectors: Tensor, labels: Tensor | None = None
) -> Tensor:
    """Cov[x_0 | x_t] v = (1 - abar) / sqrt(abar) J v for each image, in [-1, 1] units squared (Theorem 1).

    The arguments are those of ``jacobian_vector_product``. It is as good as the network: only for the exact score are
    these products with a symmetric matrix without negative eigenvalues.

    Example:
        >>> network = load_score_network("cifar10")
        >>> x_t, timesteps = torch.randn(1, 3, 32, 32), torch.tensor([100])
        >>> posterior_covariance(network, x_t, timesteps, torch.ones(1, 3, 32, 32)).shape
        torch.Size([1, 3, 32, 32])
    """
    product = jacobian_vector_product(network, x_t, timesteps, vectors, labels)
    signal_scale, noise_scale = network.schedule.scales(timesteps, x_t.ndim)
    return noise_scale**2 / signal_scale * product


def leading_directions(
    network: ScoreNetwork,
    x_t: Tensor,
    timestep: int,
    k: int = 5,
    *,
    iterations: int = 10,
    labels: Tensor | None = None,
    max_batch: int | None = None,
    generator: torch.Generator | None = None,
) -> LeadingDirections:
    """The ``k`` changes of one x_t that its denoised image follows most: J's largest singular values, right vectors.

    Randomized subspace iteration on J^T J (Halko, Martinsson and Tropp 2011, alg. 4.4). For exact scores these are
    the posterior's principal components, with variance (1 - abar) / sqrt(abar) times the singular value.

    Args:
        network, labels: as in ``jacobian_vector_product``; ``labels`` (1,) or None.
        x_t: one noisy image, (C, H, W).
        timestep: in 0...T-1.
        k: in 1...C*H*W.
        iterations: each costs k + 4 products with J and as many with J^T, plus k + 4 at the end.
        max_batch: largest batch the network sees at once; None: all k + 4.
        generator: source of the first directions; None: torch's global one.

    Raises:
        ValueError: an argument is not as above.

    Example:
        >>> network = load_score_network("cifar10")
        >>> values, directions = leading_directions(network, torch.randn(3, 32, 32), 100, k=2, iterations=1)
        >>> values.shape, directions.shape
        (torch.Size([2]), torch.Size([2, 3, 32, 32]))
    """
    _check_directions(x_t, k, iterations, max_batch)
    width = min(k + OVERSAMPLING, x_t.numel())

    def apply(product: Callable[..., Tensor], columns: Tensor) -> Tensor:
        vectors = columns.T.reshape(width, *x_t.shape)
        parts = [_repeat(product, network, x_t, timestep, part, labels) for part in vectors.split(max_batch or width)]
        return torch.cat(parts).flatten(1).T

    source = generator.device if generator is not None else x_t.device
    columns = torch.randn(x_t.numel(), width, generator=generator, device=source).to(x_t.device)
    basis = torch.linalg.qr(columns).Q
    for _ in range(iterations):
        image = torch.linalg.qr(apply(jacobian_vector_product, basis)).Q
        basis = torch.linalg.qr(apply(vector_jacobian_product, image)).Q
    _, values, rotation = torch.linalg.svd(apply(jacobian_vector_product, basis), full_matrices=False)
    directions = (rotation @ basis.T)[:k].reshape(k, *x_t.shape)
    return LeadingDirections(values[:k], directions)


def _repeat(product: Any, network: ScoreNetwork, x_t: Tensor, timestep: int, vectors: Tensor, labels: Any) -> Tensor:
    number = len(vectors)
    timesteps = torch.full((number,), timestep, device=x_t.device)
    repeated = None if labels is None else labels.expand(number)
    answer: Tensor = product(network, x_t.expand(number, -1, -1, -1), timesteps, vectors, repeated)
    return answer


def _denoiser(network: ScoreNetwork, timesteps: Tensor, labels: Tensor | None) -> Callable[[Tensor], Tensor]:
    return lambda x_t: network.pred_x0(x_t, timesteps, labels, clip=False)


def _check_shapes(network: ScoreNetwork, x_t: Tensor, vectors: Tensor) -> None:
    if x_t.ndim != 4 or any(side % network.stride for side in x_t.shape[-2:]):
        raise ValueError(f"x_t must be (B, C, H, W), sides divided by {network.stride}. Got shape {tuple(x_t.shape)}")
    if vectors.shape != x_t.shape:
        raise ValueError(f"vectors must be like x_t, {tuple(x_t.shape)}. Got {tuple(vectors.shape)}")


def _check_directions(x_t: Tensor, k: int, iterations: int, max_batch: int | None) -> None:
    if x_t.ndim != 3:
        raise ValueError(f"x_t must be one noisy image, (C, H, W). Got shape {tuple(x_t.shape)}")
    if not 1 <= k <= x_t.numel():
        raise ValueError(f"k must be in 1...{x_t.numel()}. Got {k}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1. Got {iterations}")
    check_max_batch(max_batch)
