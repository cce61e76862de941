"""A data distribution whose denoiser is known exactly, and what its errors integrate to along a path."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from apd_schedules import GaussianDenoiser, NoiseMap, NoiseSchedule, Path, Posterior


class Gaussian:
    """``x ~ N(0, cov)`` over ``n`` tokens of one element: its denoiser is linear, so a sampler is a matrix."""

    def __init__(self, n: int, seed: int) -> None:
        self.cov = covariance(n, seed)
        self.exact = GaussianDenoiser(self.cov)

    def __call__(self, z: Tensor, noise: NoiseMap, **cond: object) -> Posterior:
        return self.exact(z, noise)


def covariance(n: int, seed: int) -> Tensor:
    root = torch.randn(n, n, generator=Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T / n + 0.2 * torch.eye(n, dtype=torch.float64)


def autoregressive_covariance(n: int, correlation: float) -> Tensor:
    """Of a stationary chain, AR(1)."""
    place = torch.arange(n)
    return correlation ** (place[:, None] - place).abs().double()


Matrix = Callable[[NoiseMap], Tensor]
"""Maps ``(b, n, 1)`` to the matrices ``K`` of a linear denoiser ``x̂ = K z``, ``(b, n, n)``."""


def gain(cov: Tensor) -> Matrix:
    """Of the exact denoiser of ``N(0, cov)``, in a form of its own: ``Σ A (A Σ A + diag(sigma²))⁻¹``."""

    def matrix(noise: NoiseMap) -> Tensor:
        alpha, variance = noise.alpha[..., 0], noise.sigma[..., 0].square()
        cross = cov * alpha[..., None, :]
        return torch.linalg.solve(alpha[..., :, None] * cross + torch.diag_embed(variance), cross, left=False)

    return matrix


def mean_errors(matrix: Matrix, cov: Tensor) -> Callable[[NoiseMap], Tensor]:
    """``E (x - K z)²`` of every token, over data of covariance ``cov`` and noise."""

    def errors(noise: NoiseMap) -> Tensor:
        k, alpha, variance = matrix(noise), noise.alpha[..., 0], noise.sigma[..., 0].square()
        rest = torch.eye(len(cov), dtype=cov.dtype) - k * alpha[..., None, :]
        return ((rest @ cov) * rest).sum(-1) + (k.square() * variance[..., None, :]).sum(-1)

    return errors


def errors_at(matrix: Matrix, x: Tensor) -> Callable[[NoiseMap], Tensor]:
    """``E[(x - K z)² | x]`` of every token of one ``x``, ``(n,)``, over noise."""

    def errors(noise: NoiseMap) -> Tensor:
        k, alpha, variance = matrix(noise), noise.alpha[..., 0], noise.sigma[..., 0].square()
        return (x - (k @ (alpha * x)[..., None])[..., 0]).square() + (k.square() * variance[..., None, :]).sum(-1)

    return errors


def line_integral(
    errors: Callable[[NoiseMap], Tensor],
    path: Path,
    schedule: NoiseSchedule,
    kinks: Sequence[float] = (),
    weight: Callable[[Tensor, Tensor], Tensor] = lambda u, level: torch.ones_like(level),
    nodes: int = 400,
) -> float:
    """``½ ∫ sum_i weight_i errors_i (-dSNR_i)`` along a path, by double-exponential quadrature between kinks.

    The rule crowds its nodes towards the ends of each piece, where a schedule's log-SNR runs fast.

    Args:
        errors: maps ``(b, n, 1)`` to the mean squared errors of x, ``(b, n)``.
        kinks: places of the path where a velocity jumps, in (0, 1).
        weight: of (u, levels), for weighted losses.
    """
    edges = sorted({0.0, 1.0, *kinks})
    v = torch.linspace(-3.2, 3.2, nodes, dtype=torch.float64)
    phi = 0.5 * torch.pi * v.sinh()
    share, slope = (2 * phi).sigmoid(), 0.5 * torch.pi * v.cosh() / (2 * phi.cosh().square())
    total = 0.0
    for a, b in itertools.pairwise(edges):
        u = a + (b - a) * share
        level, velocity, *_ = torch.func.jvp(path, (u,), (torch.ones_like(u),))
        log_snr, rate, *_ = torch.func.jvp(schedule, (level.contiguous(),), (velocity.contiguous(),))
        each = -0.5 * rate[..., 0] * log_snr[..., 0].exp() * errors(NoiseMap(log_snr)) * weight(u, level)[..., 0]
        total += float((each.sum(-1) * slope).sum()) * (b - a) * float(v[1] - v[0])
    return total


def information(cov: Tensor, log_snr: Tensor) -> Tensor:
    """``I(x; z)`` of ``N(0, cov)`` in nats at the log-SNR of its elements, ``(*b, n)``: ``½ log det(I + Σ SNR)``."""
    root = log_snr.mul(0.5).exp()
    inner = root[..., :, None] * cov * root[..., None, :]
    return 0.5 * torch.linalg.slogdet(torch.eye(len(cov), dtype=cov.dtype) + inner)[1]
