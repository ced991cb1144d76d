"""The Jacobian of the denoised image with respect to the noisy one: which changes of a noisy image denoising keeps.

If the score is exact, the Jacobian is a posterior covariance (Sastry et al., NeurIPS 2024, Theorem 1). With the paper's
denoised image x_hat_t = sqrt(abar) pred_x0 = E[m_t | x_t] and m_t = sqrt(abar) x_0,

    d x_hat_t / d x_t = Cov[m_t | x_t] / (1 - abar),   so   d pred_x0 / d x_t = sqrt(abar) / (1 - abar) Cov[x_0 | x_t].

abar is alphas_cumprod at t. With a variance-exploding schedule sqrt(abar) becomes 1 and 1 - abar becomes sigma^2. Here
pred_x0 is not clipped. No function forms the matrix: all compute its products with vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.torch_version import TorchVersion

from ..arguments import FLOATS, INTEGERS, as_integer, as_optional_integer, check_generator, check_instance, check_tensor
from ..score import ScoreNetwork
from ..score.functional import prediction_to_x0, scales
from ..without_waiting import send

#: Whether torch differentiates group norms in forward mode; version 2.9 does not, for the layouts that occur here.
FORWARD_MODE = TorchVersion(torch.__version__) >= "2.14"
#: Extra directions that the subspace iteration carries. They speed it up (Halko et al. 2011, section 4).
OVERSAMPLING = 4


class LeadingDirections(NamedTuple):
    """Singular values (k,), descending, and directions (k, C, H, W) of length 1 in the space of x_t."""

    singular_values: Tensor
    directions: Tensor


def jacobian_vector_product(
    network: ScoreNetwork, x_t: Tensor, timesteps: Tensor, vectors: Tensor, labels: Tensor | None = None
) -> Tensor:
    """J v for each image, with J = d pred_x0 / d x_t: how the denoised image changes if x_t changes by v.

    Exact. Forward mode, with one call of the network; before torch 2.14 two reverse passes. Use a float32 network,
    because lower precisions lose most digits. For the same reason TF32, in which NVIDIA GPUs otherwise multiply float32
    convolutions, is off in the call.

    Args:
        network: on the device of ``x_t``.
        x_t: float (B, C, H, W), on the scale of [-1, 1]. H and W are divisible by ``network.stride``.
        timesteps: int64 (B,) in 0...T-1.
        vectors: (B, C, H, W), one for each image. Repeat an image for several vectors.
        labels: int64 (B,) for conditional networks, or None.

    Returns:
        float32 (B, C, H, W).

    Raises:
        ValueError: an argument is not as above.

    Example:
        >>> network = load_score_network("cifar10")
        >>> x_t, timesteps = torch.randn(2, 3, 32, 32), torch.tensor([100, 500])
        >>> jacobian_vector_product(network, x_t, timesteps, torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """
    x_t, timesteps, labels = check_inputs(network, x_t, timesteps, vectors, labels)
    if not len(x_t):
        return x_t
    # Forward mode accepts no expanded tensors, and attention's fast kernels do not support it.
    x, v = x_t.contiguous(), vectors.float().contiguous()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), without_tf32():
        denoise = _pred_x0(network, timesteps, labels)
        jvp: Tensor = torch.func.jvp(denoise, (x,), (v,))[1] if FORWARD_MODE else double_vjp(denoise, x, v)
    return jvp


def double_vjp(function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    """J v by two reverse passes: J^T u is linear in u, and its own transposed derivative by u, applied to v, is J v."""
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        y = function(x)
        u = torch.zeros_like(y, requires_grad=True)
        (transposed,) = torch.autograd.grad(y, x, u, create_graph=True)
        (product,) = torch.autograd.grad(transposed, u, v.clone())
    return product


@contextmanager
def without_tf32() -> Iterator[None]:
    """float32 products in float32 on NVIDIA GPUs. TF32 keeps 10 bits of the 23 that a float32 has behind its first."""
    backends: list[Any] = [torch.backends.cudnn.conv, torch.backends.cuda.matmul]  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before):
            backend.fp32_precision = precision


def vector_jacobian_product(
    network: ScoreNetwork, x_t: Tensor, timesteps: Tensor, vectors: Tensor, labels: Tensor | None = None
) -> Tensor:
    """J^T v for each image: the gradient with respect to x_t, if v is the gradient with respect to the denoised image.

    This is reverse-mode differentiation, with one forward and one backward pass of the network. If the score is exact,
    J is symmetric, and the result is that of ``jacobian_vector_product``. So are the arguments and errors.

    Example:
        >>> network = load_score_network("cifar10")
        >>> x_t, timesteps = torch.randn(2, 3, 32, 32), torch.tensor([100, 500])
        >>> vector_jacobian_product(network, x_t, timesteps, torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """
    x_t, timesteps, labels = check_inputs(network, x_t, timesteps, vectors, labels)
    if not len(x_t):
        return x_t
    with torch.inference_mode(False), torch.enable_grad(), without_tf32():
        x = x_t.detach().clone().requires_grad_()
        (vjp,) = torch.autograd.grad(_pred_x0(network, timesteps, labels)(x), x, vectors.float().clone())
    return vjp


def posterior_covariance(
    network: ScoreNetwork, x_t: Tensor, timesteps: Tensor, vectors: Tensor, labels: Tensor | None = None
) -> Tensor:
    """Cov[x_0 | x_t] v = (1 - abar) / sqrt(abar) J v for each image (Theorem 1), x_0 on the scale of [-1, 1].

    The arguments and errors are those of ``jacobian_vector_product``. Only if the score is exact is the matrix behind
    these products symmetric, without negative eigenvalues.

    Example:
        >>> network = load_score_network("cifar10")
        >>> x_t, timesteps = torch.randn(1, 3, 32, 32), torch.tensor([100])
        >>> posterior_covariance(network, x_t, timesteps, torch.ones(1, 3, 32, 32)).shape
        torch.Size([1, 3, 32, 32])
    """
    jvp = jacobian_vector_product(network, x_t, timesteps, vectors, labels)
    signal_scale, noise_scale = scales(timesteps, network.schedule, x_t.ndim)
    return noise_scale**2 / signal_scale * jvp


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
    """The ``k`` changes of one x_t that its denoised image follows most: J's first right singular vectors.

    The method is randomized subspace iteration on J^T J (Halko, Martinsson and Tropp 2011, algorithm 4.4). If the score
    is exact, the directions are the posterior's principal components. The variance along each is then
    (1 - abar) / sqrt(abar) times its singular value.

    Args:
        network: as for ``jacobian_vector_product``.
        x_t: one noisy image, (C, H, W).
        timestep: in 0...T-1.
        k: in 1...C*H*W.
        iterations: each costs k + 4 products with J and as many with J^T. The end costs k + 4 products with J.
        labels: (1,) for conditional networks, or None.
        max_batch: largest batch that the network gets at once. None means all k + 4.
        generator: source of the first directions. None means torch's global generator.

    Raises:
        ValueError: an argument is not as above.

    Example:
        >>> network = load_score_network("cifar10")
        >>> values, directions = leading_directions(network, torch.randn(3, 32, 32), 100, k=2, iterations=1)
        >>> values.shape, directions.shape
        (torch.Size([2]), torch.Size([2, 3, 32, 32]))
    """
    check_instance("network", network, ScoreNetwork)
    check_instance("x_t", x_t, Tensor)
    if x_t.ndim != 3:
        raise ValueError(f"x_t must be one noisy image, (C, H, W). Got shape {tuple(x_t.shape)}")
    k = as_integer("k", k, 1, x_t.numel())
    iterations = as_integer("iterations", iterations, 1)
    timestep = as_integer("timestep", timestep, 0, network.num_timesteps - 1)
    check_generator(generator)
    if labels is not None:
        check_tensor("labels", labels, INTEGERS, "an int64 tensor (1,), or None")
        if labels.shape != (1,):
            raise ValueError(f"labels must be (1,). Got shape {tuple(labels.shape)}")
    max_batch = as_optional_integer("max_batch", max_batch, 1)
    width = min(k + OVERSAMPLING, x_t.numel())

    def multiply(product: Callable[..., Tensor], matrix: Tensor) -> Tensor:
        """J or J^T times a matrix (C*H*W, width)."""
        parts = []
        for vectors in matrix.T.reshape(width, *x_t.shape).split(max_batch or width):
            timesteps = torch.full((len(vectors),), timestep, device=x_t.device)
            repeated = None if labels is None else labels.expand(len(vectors))
            parts.append(product(network, x_t.expand(len(vectors), -1, -1, -1), timesteps, vectors, repeated))
        return torch.cat(parts).flatten(1).T

    source = generator.device if generator is not None else x_t.device
    start = send(torch.randn(x_t.numel(), width, generator=generator, device=source), x_t.device)
    basis = torch.linalg.qr(start).Q
    for _ in range(iterations):
        image = torch.linalg.qr(multiply(jacobian_vector_product, basis)).Q
        basis = torch.linalg.qr(multiply(vector_jacobian_product, image)).Q
    _, values, rotation = torch.linalg.svd(multiply(jacobian_vector_product, basis), full_matrices=False)
    directions = (rotation @ basis.T)[:k].reshape(k, *x_t.shape)
    return LeadingDirections(values[:k], directions)


def _pred_x0(network: ScoreNetwork, timesteps: Tensor, labels: Tensor | None) -> Callable[[Tensor], Tensor]:
    def pred_x0(x_t: Tensor) -> Tensor:
        prediction, _ = network.predict(x_t, timesteps, labels)
        return prediction_to_x0(prediction, x_t, timesteps, network.schedule, network.prediction_type)

    return pred_x0


def check_inputs(
    network: ScoreNetwork, x_t: Tensor, timesteps: Tensor, vectors: Tensor, labels: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """x_t, timesteps and labels. ValueError or TypeError unless all is as ``jacobian_vector_product`` takes it."""
    check_instance("network", network, ScoreNetwork)
    checked = network.check_inputs(x_t, timesteps, labels)  # here, because values cannot be read inside torch.func
    check_tensor("vectors", vectors, FLOATS, "floating point (B, C, H, W)")
    if vectors.shape != x_t.shape:
        raise ValueError(f"vectors must be like x_t, {tuple(x_t.shape)}. Got {tuple(vectors.shape)}")
    return checked
