"""Samplers of level maps, and how to combine them."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from .._named import named

LevelSampler = Callable[[int, Generator | None], Float[Tensor, "b n e"]]
"""(batch, generator) to the levels of a batch of maps, in [0, 1], 0 clean, on the CPU, as the generator is. Without a
generator, torch's global one."""


def spread(batch: int, generator: Generator | None) -> Float[Tensor, " b"]:
    """Uniform numbers, one in each of ``batch`` equal cells, at random rows.

    Each is uniform in [0, 1); together they are evenly spread (Kingma et al. 2021, arXiv:2107.00630).
    The rows are shuffled: two samplers that both spread their numbers stay independent row by row.
    """
    offset = torch.rand((), generator=generator)
    return ((torch.randperm(batch, generator=generator) + offset) / max(batch, 1)).clamp(max=1 - 2**-24)


def choose(shares: Float[Tensor, " k"], batch: int, generator: Generator | None) -> Int[Tensor, " b"]:
    """For each row an index drawn with probability ``shares``; counts differ from ``batch * shares`` by less than 1."""
    edges = shares.cumsum(0)[:-1] / shares.sum()
    return torch.bucketize(spread(batch, generator), edges, right=True)


def mix(parts: Sequence[tuple[float, Callable[[int, Generator | None], Tensor]]]) -> Callable[..., Tensor]:
    """Each row comes from one of the parts, with the shares of :func:`mixture`."""
    if not parts or any(not 0 < share < math.inf for share, _ in parts):
        raise ValueError(f"a mixture needs parts with positive, finite shares, got {[share for share, _ in parts]}")
    shares = torch.tensor([share for share, _ in parts])

    def draw(batch: int, generator: Generator | None = None) -> Tensor:
        part_of = choose(shares, batch, generator)
        rows = [(part_of == k).nonzero().flatten() for k in range(len(parts))]
        drawn = [sampler(len(r), generator) for (_, sampler), r in zip(parts, rows, strict=True) if len(r) or not batch]
        if len({t.shape[1:] for t in drawn}) > 1:
            raise ValueError(f"the parts of a mixture draw maps of different shapes: {[*map(_shape, drawn)]}")
        return torch.cat(drawn)[torch.cat(rows).argsort()]

    return draw


@named
def mixture(parts: Sequence[tuple[float, LevelSampler]]) -> LevelSampler:
    """Each map comes from one of the parts.

    Args:
        parts: pairs (share, sampler); the shares are positive and are divided by their sum. In a batch each part gets
            its share of the rows to within one.
    """
    return mix(parts)


@named
def snap(sampler: LevelSampler, bins: int) -> LevelSampler:
    """Moves all levels in a cell of width ``1 / bins`` to one place in it, so that a batch holds few distinct ones.

    A model that computes its modulation once per distinct level then does the same work for independent levels as for
    shared ones. The place in the cells is drawn anew for each batch, uniformly: every level is trained on, not only
    ``bins`` of them, and uniform levels stay uniform. Exactly clean and pure noise stay what they are, and no other
    level becomes either.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")

    def levels(batch: int, generator: Generator | None = None) -> Float[Tensor, "b n e"]:
        t = sampler(batch, generator)
        shift = 0.001 + 0.998 * torch.rand((), generator=generator)
        snapped = ((t * bins).floor().clamp(max=bins - 1) + shift) / bins
        return torch.where((t > 0) & (t < 1), snapped, t)

    return levels


def _shape(t: Tensor) -> tuple[int, ...]:
    return tuple(t.shape[1:])
