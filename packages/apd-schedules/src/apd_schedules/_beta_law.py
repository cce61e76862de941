"""Paths on which every level follows a Beta law whose mean is exactly ``u``."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ._offsets import Offsets
from ._path_law import Levels, PathLaw

_FAR = 700.0
"""Largest logit that is searched; exp(-700) is about the least float64 that is not 0."""


def beta_law(offsets: Offsets, nu: float = 6.0) -> PathLaw:
    """``t`` is the quantile at ``U`` of ``Beta(nu u, nu (1 - u))``; velocity ``-(dF/du) / f`` with its distribution
    function F and density f.

    ``E[t | u] = u`` and ``Var[t | u] = u (1 - u) / (nu + 1)``. The velocity has heavy tails where ``nu`` is small; at 0
    the law would be that of tokens that jump one after another.

    Args:
        offsets: one a token or element.
        nu: concentration; large keeps the levels of a map close together.
    """
    if not 0.5 <= nu <= 1000:
        raise ValueError(f"nu lies in [0.5, 1000], got {nu}")
    terms = 50 + 4 * math.ceil(nu**0.5)

    def at(u: Float[Tensor, " b"], drawn: Float[Tensor, "b n e"]) -> Levels:
        inside = ((u > 0) & (u < 1))[:, None, None]
        mean = torch.where(inside, u[:, None, None].clamp(1e-9, 1 - 1e-9), 0.5).expand_as(drawn).contiguous()
        logit = beta_quantile(drawn, nu * mean, nu * (1 - mean), terms)
        by_u = torch.func.jvp(
            lambda m: beta_cdf(logit, nu * m, nu * (1 - m), terms), (mean,), (torch.ones_like(mean),)
        )[1]
        # With t = sigmoid(logit): density of t is that of the logit over t (1 - t).
        log_density = _log_kernel(logit, nu * mean, nu * (1 - mean)) - _log_variance(logit)
        velocity = (-by_u * torch.exp(-log_density)).clamp(min=0)
        ends = u[:, None, None].expand_as(drawn).contiguous()
        return Levels(torch.where(inside, logit.sigmoid(), ends), torch.where(inside, velocity, 1.0))

    return PathLaw(offsets, at)


def beta_quantile(
    p: Float[Tensor, "*s"], a: Float[Tensor, "*s"], b: Float[Tensor, "*s"], terms: int = 64
) -> Float[Tensor, "*s"]:
    """Logit of the quantile of ``Beta(a, b)`` at ``p``, by Newton's method on the logarithm of the lesser tail.

    That logarithm is a concave function of the logit, so from any start the second iterate on lies on one side of the
    root, and the way to it is monotone.
    """
    flip = p > 0.5
    a, b, log_p = torch.where(flip, b, a), torch.where(flip, a, b), torch.where(flip, 1 - p, p).log()
    logit = (a / b).log()
    for _ in range(60):
        tail = beta_cdf(logit, a, b, terms)
        step = tail * (tail.log() - log_p) * torch.exp(-_log_kernel(logit, a, b))
        moved = (logit - step).clamp(-_FAR, _FAR)
        settled = (moved - logit).abs() <= 1e-13 * (1 + logit.abs())
        logit = moved
        if settled.all():
            break
    return torch.where(flip, -logit, logit)


def beta_cdf(
    logit: Float[Tensor, "*s"], a: Float[Tensor, "*s"], b: Float[Tensor, "*s"], terms: int = 64
) -> Float[Tensor, "*s"]:
    """Distribution function of ``Beta(a, b)`` at ``sigmoid(logit)``, by the continued fraction of the incomplete beta
    function (Lentz's evaluation, DLMF 8.17.22), differentiable in all three.

    Args:
        terms: of the fraction; it needs a few times the root of the larger parameter.
    """
    swap = logit.sigmoid() > (a + 1) / (a + b + 2)  # the fraction converges fast below the mean
    p, q, y = torch.where(swap, b, a), torch.where(swap, a, b), torch.where(swap, -logit, logit)
    x = y.sigmoid()
    c = torch.ones_like(x)
    d = 1 / (1 - (p + q) * x / (p + 1))
    value = d
    for m in range(1, terms):
        for factor in (
            m * (q - m) * x / ((p + 2 * m - 1) * (p + 2 * m)),
            -(p + m) * (p + q + m) * x / ((p + 2 * m) * (p + 2 * m + 1)),
        ):
            d = 1 / (1 + factor * d)
            c = 1 + factor / c
            value = value * c * d
        if ((c * d - 1).abs() < 4e-15).all():
            break
    tail = torch.exp(_log_kernel(y, p, q)) / p * value
    return torch.where(swap, 1 - tail, tail)


def _log_kernel(logit: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Log density of the logit of a Beta variable."""
    softplus = torch.nn.functional.softplus
    return torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b) - a * softplus(-logit) - b * softplus(logit)


def _log_variance(logit: Tensor) -> Tensor:
    """``log(t (1 - t))``."""
    softplus = torch.nn.functional.softplus
    return -softplus(-logit) - softplus(logit)
