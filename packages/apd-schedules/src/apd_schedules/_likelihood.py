"""Likelihoods of the data given a guess of them and its variance: the reconstruction term of a bound."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Likelihood(Protocol):
    """``-log p(x | mean, variance)`` in nats, element by element; ``variance`` broadcasts against ``mean``."""

    def __call__(
        self, x: Float[Tensor, "*b n d"], mean: Float[Tensor, "*b n d"], variance: Float[Tensor, "*#b #n e"]
    ) -> Float[Tensor, "*b n d"]: ...


@dataclass(frozen=True, slots=True)
class ContinuousGaussian:
    """A normal density: nats relative to the unit in which the data are given, and negative where data are sharp.

    Bounds with it are for data that have a density. Finely quantised data have none, and their "density" grows without
    limit as the clean end of the schedule does: use :class:`DiscretizedGaussian`.
    """

    def __call__(
        self, x: Float[Tensor, "*b n d"], mean: Float[Tensor, "*b n d"], variance: Float[Tensor, "*#b #n e"]
    ) -> Float[Tensor, "*b n d"]:
        return 0.5 * ((x - mean).square() / variance + variance.log() + math.log(2 * math.pi))


@dataclass(frozen=True, slots=True)
class DiscretizedGaussian:
    """Probabilities of equally spaced values, proportional to a normal density (Kingma et al. 2021, arXiv:2107.00630,
    equation 8).

    Args:
        values: how many, 256 for 8-bit data.
        low, high: the first and the last of them.
    """

    values: int = 256
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.values < 2 or not self.low < self.high:
            raise ValueError(f"at least two values from low to a higher high, got {self}")

    @property
    def width(self) -> float:
        """Distance between neighbouring values."""
        return (self.high - self.low) / (self.values - 1)

    def __call__(
        self, x: Float[Tensor, "*b n d"], mean: Float[Tensor, "*b n d"], variance: Float[Tensor, "*#b #n e"]
    ) -> Float[Tensor, "*b n d"]:
        """
        Raises:
            ValueError: an element of ``x`` is none of the values, by more than a hundredth of their distance.
        """
        place = (x - self.low) / self.width
        index = place.round()
        on_grid = ((place - index).abs() <= 0.01) & (index >= 0) & (index <= self.values - 1)
        if not on_grid.all():
            raise ValueError(
                f"the data are not {self.values} values from {self.low:g} to {self.high:g}: use the "
                "DiscretizedGaussian of their values, or ContinuousGaussian for data that are not discrete"
            )
        spread = variance.sqrt() / self.width
        centre = (mean - self.low) / self.width
        # Values further than 9 standard deviations from the nearest one to the centre weigh less than exp(-40).
        nearest = centre.round().clamp(0, self.values - 1)
        reach = min(self.values - 1, math.ceil(9 * float(spread.amax()) if x.numel() else 0) + 1)
        total = torch.full_like(centre, -math.inf)
        for step in range(-reach, reach + 1):
            value = nearest + step
            exponent = -0.5 * ((value - centre) / spread).square()
            inside = (value >= 0) & (value <= self.values - 1)
            total = torch.logaddexp(total, exponent.masked_fill(~inside, -math.inf))
        return total + 0.5 * ((index - centre) / spread).square()
