"""The exact noise prediction for images from a mixture of Gaussians, and their posterior covariance, in float64."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from diffaug_transforms.score import NoiseSchedule


class MixtureOracle(nn.Module):
    """Images are m_k plus N(0, variance_k) per pixel with probability w_k.

    With a = signal_scale and b = noise_scale, component k has x_t ~ N(a m_k, a^2 variance_k + b^2), so its share
    r_k of x_t is the softmax of log w_k + log-density; within it, x_0 has mean mu_k = m_k + a variance_k (x_t - a m_k)
    / (a^2 variance_k + b^2) and variance c_k = variance_k b^2 / (a^2 variance_k + b^2). Over all of them

        E[x_0 | x_t] = sum r_k mu_k,    Cov[x_0 | x_t] = sum r_k (c_k I + mu_k mu_k^T) - E E^T.
    """

    def __init__(self, schedule: NoiseSchedule, size: int = 2, components: int = 4, channels: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shape = (components, channels * size * size)
        self.means = 0.8 * torch.rand(shape, generator=generator, dtype=torch.float64) - 0.4
        self.variances = torch.linspace(0.01, 0.03, components, dtype=torch.float64)
        self.weights = torch.linspace(1, 2, components, dtype=torch.float64)
        betas = torch.tensor(schedule.exact_betas, dtype=torch.float64)
        self.abar = torch.cumprod(1 - betas, dim=0) if schedule.variance_preserving else torch.ones_like(betas)
        self.noise = 1 - self.abar if schedule.variance_preserving else torch.cumsum(betas, dim=0)
        self.config = SimpleNamespace(in_channels=channels, sample_size=size)

    def forward(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        x = x_t.double().flatten(1)
        shares, means, _ = self._components(x, timesteps)
        mean = (shares[..., None] * means).sum(1)
        abar, noise = self.abar[timesteps][:, None], self.noise[timesteps][:, None]
        return ((x - abar.sqrt() * mean) / noise.sqrt()).reshape(x_t.shape)

    def posterior_covariance(self, x_t: Tensor, timestep: int) -> Tensor:
        """Cov[x_0 | x_t] of one x_t (C, H, W), (CHW, CHW)."""
        shares, means, variances = self._components(x_t.double().reshape(1, -1), torch.tensor([timestep]))
        shares, means, variances = shares[0], means[0], variances[0]
        mean = shares @ means
        return (shares @ variances) * torch.eye(len(mean)) + means.T @ (shares[:, None] * means) - mean.outer(mean)

    def _components(self, x: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Shares (B, K), means (B, K, D) and variances (B, K) of x_0 in each component, given x (B, D)."""
        abar, noise = self.abar[timesteps][:, None], self.noise[timesteps][:, None]
        spread = abar * self.variances + noise
        distance = x[:, None] - abar.sqrt()[..., None] * self.means
        log_density = -distance.square().sum(2) / (2 * spread) - spread.log() * x.shape[1] / 2
        gain = abar.sqrt() * self.variances / spread
        shares = (self.weights.log() + log_density).softmax(1)
        return shares, self.means + gain[..., None] * distance, self.variances * noise / spread
