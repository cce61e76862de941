"""What makes the paths of a law differ from token to token: uniform numbers, alone or alike among neighbours.

A law of paths turns each into a level by a quantile function, so only the marginal law matters for the weights of a
bound; how tokens depend on each other is free.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

Offsets = Callable[[int, Generator | None], Float[Tensor, "b n e"]]
"""(batch, generator) to numbers that are each uniform in (0, 1), in float64 on the CPU, as the generator is; dependence
between them is free."""

_EDGE = 2.0**-53


def independent_offsets(tokens: int, elements: int = 1) -> Offsets:
    """Every token, or every element of every token, on its own."""
    if tokens < 1 or elements < 1:
        raise ValueError(f"offsets are of at least one token of one element, got {tokens} of {elements}")

    def draw(batch: int, generator: Generator | None = None) -> Float[Tensor, "b n e"]:
        return torch.rand(batch, tokens, elements, generator=generator, dtype=torch.float64).clamp(_EDGE, 1 - _EDGE)

    return draw


def correlated_offsets(grid: tuple[int, int], length: float) -> Offsets:
    """Neighbours alike: a Gaussian copula of a stationary random field on the torus.

    The field is white noise filtered by ``exp(-(length k)² / 4)`` in frequency (``k`` in radians a token), so the
    correlation of two tokens falls as ``exp(-r² / (2 length²))`` with their distance ``r`` on the torus; its variance
    is 1 at every token, and the offsets are its normal distribution function: each exactly uniform.

    Args:
        grid: token rows and columns.
        length: of the correlation, in tokens.
    """
    if min(grid) < 1 or not 0 <= length < math.inf:
        raise ValueError(f"a random field needs a grid of tokens and a finite length >= 0, got {grid} and {length}")
    rows, columns = (2 * torch.pi * torch.fft.fftfreq(size, dtype=torch.float64) for size in grid)
    filtered = torch.exp(-((length * rows[:, None]).square() + (length * columns).square()) / 4)
    filtered = filtered / filtered.square().mean().sqrt()

    def draw(batch: int, generator: Generator | None = None) -> Float[Tensor, "b n 1"]:
        white = torch.randn(batch, *grid, generator=generator, dtype=torch.float64)
        field = torch.fft.ifft2(filtered * torch.fft.fft2(white)).real
        return torch.special.ndtr(field).clamp(_EDGE, 1 - _EDGE).flatten(1)[..., None]

    return draw
