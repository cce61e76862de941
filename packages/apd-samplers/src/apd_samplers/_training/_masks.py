"""Samplers of masks: which tokens are known.

Every mask of every sampler here, and of what is made of them, knows at least one token and leaves at least one unknown,
so that there is both a context and something to learn.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from apd_schedules import raster

from .._named import named
from ._levels import choose, mix, spread

MaskSampler = Callable[[int, Generator | None], Bool[Tensor, "b n 1"]]
"""(batch, generator) to which tokens are known, on the CPU, as the generator is. Without one, torch's global one."""


@named
def box(grid: tuple[int, int]) -> MaskSampler:
    """A box of tokens is known: its height and width uniform over all sizes but the whole image, its place uniform."""
    tokens = count_tokens(grid)
    rows, columns = grid

    def draw(batch: int, generator: Generator | None = None) -> Bool[Tensor, "b n 1"]:
        size = (spread(batch, generator) * (tokens - 1)).floor()  # 0 is 1 × 1, the last one short of rows × columns
        place = torch.rand(2, batch, generator=generator)
        row = run(rows, 1 + size.div(columns, rounding_mode="floor"), place[0])
        column = run(columns, 1 + size % columns, place[1])
        return (row[:, :, None] & column[:, None, :]).reshape(batch, tokens, 1)

    return draw


@named
def half(grid: tuple[int, int]) -> MaskSampler:
    """The left, right, upper or lower half is known, each equally likely.

    Of an odd number of rows or columns the middle one is unknown. A single row or column is only cut across.
    """
    count_tokens(grid)
    down, across = (torch.arange(size) for size in grid)
    halves = [
        (down < grid[0] // 2)[:, None].expand(grid),
        (down >= (grid[0] + 1) // 2)[:, None].expand(grid),
        (across < grid[1] // 2).expand(grid),
        (across >= (grid[1] + 1) // 2).expand(grid),
    ]
    table = torch.stack([known.flatten() for known in halves if known.any()])

    def draw(batch: int, generator: Generator | None = None) -> Bool[Tensor, "b n 1"]:
        return table[choose(torch.ones(len(table)), batch, generator)][..., None]

    return draw


@named
def scattered(tokens: int, share: tuple[float, float] = (0.0, 1.0)) -> MaskSampler:
    """Tokens anywhere are known, all choices of so many equally likely.

    Args:
        share: range of the known fraction. The number of known tokens is uniform from ``low n`` to ``high n``, rounded,
            within 1 and n - 1, and evenly spread over a batch.
    """
    count = counts(tokens, share)

    def draw(batch: int, generator: Generator | None = None) -> Bool[Tensor, "b n 1"]:
        return smallest(torch.rand(batch, tokens, generator=generator), count(batch, generator))

    return draw


@named
def complement(masks: MaskSampler) -> MaskSampler:
    """What was known is unknown, and the other way round."""

    def draw(batch: int, generator: Generator | None = None) -> Bool[Tensor, "b n 1"]:
        return ~masks(batch, generator)

    return draw


@named
def either(parts: Sequence[tuple[float, MaskSampler]]) -> MaskSampler:
    """Each mask comes from one of the parts.

    Args:
        parts: pairs (share, masks), as for :func:`mixture`.
    """
    return mix(parts)


def run(length: int, size: Float[Tensor, " b"], place: Float[Tensor, " b"]) -> Bool[Tensor, "b length"]:
    """``size`` cells in a row of ``length``; a uniform ``place`` in [0, 1) starts them anywhere they fit."""
    at = torch.arange(length)
    start = (place * (length - size + 1)).floor()
    return (at >= start[:, None]) & (at < (start + size)[:, None])


def smallest(keys: Float[Tensor, "b n"], count: Int[Tensor, " b"]) -> Bool[Tensor, "b n 1"]:
    """Which tokens have the ``count`` smallest keys of their row."""
    return (keys.argsort(1).argsort(1) < count[:, None])[..., None]


def counts(tokens: int, share: tuple[float, float]) -> Callable[[int, Generator | None], Int[Tensor, " b"]]:
    """Numbers of tokens, uniform from ``low n`` to ``high n``, rounded, within 1 and n - 1; evenly spread."""
    if tokens < 2:
        raise ValueError(f"a mask needs a known and an unknown token, got {tokens} in all")
    low, high = share
    if not 0 <= low <= high <= 1:
        raise ValueError(f"share is a range 0 <= low <= high <= 1, got {share}")
    least, most = (min(max(round(end * tokens), 1), tokens - 1) for end in share)

    def draw(batch: int, generator: Generator | None = None) -> Int[Tensor, " b"]:
        return least + (spread(batch, generator) * (most - least + 1)).long()

    return draw


def fitting(masks: MaskSampler, tokens: int) -> MaskSampler:
    """The masks, if they are of so many tokens."""
    found = masks(1, Generator().manual_seed(0)).shape[1]
    if found != tokens:
        raise ValueError(f"the masks are of {found} tokens, the maps of {tokens}")
    return masks


def count_tokens(grid: tuple[int, int]) -> int:
    """Tokens of a grid, at least two."""
    tokens = len(raster(grid))
    if tokens < 2:
        raise ValueError(f"a known and an unknown part: this needs at least two tokens, got a grid of {grid}")
    return tokens
