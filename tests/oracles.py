"""A data distribution whose denoiser is known exactly."""

import torch
from torch import Generator, Tensor

from apd_schedules import NoiseMap, Posterior


class Gaussian:
    """``x ~ N(0, cov)`` over ``n`` tokens of one element: its denoiser is linear, so a sampler is a matrix."""

    def __init__(self, n: int, seed: int) -> None:
        root = torch.randn(n, n, generator=Generator().manual_seed(seed), dtype=torch.float64)
        self.cov = root @ root.T / n + 0.2 * torch.eye(n, dtype=torch.float64)

    def __call__(self, z: Tensor, noise: NoiseMap, **cond: object) -> Posterior:
        alpha, sigma = noise.alpha.expand_as(z)[..., 0], noise.sigma.expand_as(z)[..., 0]
        cross = self.cov * alpha[..., None, :]  # Cov(x, z)
        marginal = alpha[..., :, None] * cross + torch.diag_embed(sigma**2)  # Cov(z, z)
        return Posterior(cross @ torch.linalg.solve(marginal, z))
