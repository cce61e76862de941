"""The law of one level of AsyncPatch Diffusion's sampler, in closed form."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AsyncPatchMarginal:
    """Law of the level of any token of :func:`async_patch`: ``t ~ U(m - d, m + d)`` with ``m ~ U(low, high)`` and
    ``d = min(m - low, high - m, max_spread)``, whatever the patches.

    With ``x = (t - low) / (high - low)`` and ``c = max_spread / (high - low)``, at most 1/2, the density of ``x`` is

        ``½ ln⁺(2c / x) + ½ ln⁺(2c / (1 - x)) + min(x, 1 - x, 2c, 1 - 2c) / 2c``

    from the means within ``c`` of ``low``, of ``high``, and of neither. At ``c = 1/2`` it is ``-½ ln(x (1 - x))``. One
    over the density is the exact importance weight that makes the levels count as uniform ones.

    Args:
        low, high, max_spread: as for :func:`async_patch`.
    """

    low: float = 0.0
    high: float = 1.0
    max_spread: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"levels lie in 0 <= low < high <= 1, got low={self.low}, high={self.high}")
        if not self.max_spread >= 0:
            raise ValueError(f"max_spread must not be negative, got {self.max_spread}")

    def density(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Density of the levels, elementwise: positive and finite within (low, high), 0 outside.

        At ``low`` and ``high`` themselves it is infinite, like a logarithm: a level there has importance weight 0.
        """
        x = ((t - self.low) / self._width).clamp(0, 1)
        double = 2 * self._cap
        near_low, near_high = (0.5 * (double / end).log().clamp(min=0) for end in (x, 1 - x))
        between = torch.minimum(x, 1 - x).clamp(max=min(double, 1 - double)) / double
        inside = (t >= self.low) & (t <= self.high)
        return torch.where(inside, (near_low + near_high + between) / self._width, 0.0)

    def cdf(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Probability of a level of at most ``t``, elementwise.

        At ``c = 1/2`` it is ``x + ½ [(1 - x) ln(1 - x) - x ln x]``.
        """
        x = ((t - self.low) / self._width).clamp(0, 1)
        cap, least = self._cap, min(2 * self._cap, 1 - 2 * self._cap)
        # integrals from 0 to x of the three terms
        near_low, past = self._logarithm(x), self._logarithm(1 - x)
        rise, fall = 0.5 * x.clamp(max=least).square(), 0.5 * (1 - x).clamp(max=least).square()
        between = rise + least * (x.clamp(least, 1 - least) - least) + 0.5 * least**2 - fall
        return (near_low + (cap - past) + between / (2 * cap)).clamp(0, 1)

    @property
    def _width(self) -> float:
        return self.high - self.low

    @property
    def _cap(self) -> float:
        # At a spread of 0 the law is uniform; so it is, to 1e-12, at the least one here, which divides.
        return min(max(self.max_spread / self._width, 1e-12), 0.5)

    def _logarithm(self, x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Integral of ``½ ln⁺(2c / x)`` from 0."""
        y = x.clamp(max=2 * self._cap)
        return 0.5 * (y + torch.special.xlogy(y, 2 * self._cap / y))
