"""Masks of free-form strokes."""

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from .._named import named
from ._grid import centres
from ._levels import choose
from ._masks import MaskSampler, count_tokens

_TOUCHES = 0.7072
"""A disc of this radius, in tokens, holds the middle of a token wherever it is: just above half a diagonal."""


@named
def brush(
    grid: tuple[int, int],
    strokes: tuple[int, int] = (1, 4),
    pieces: tuple[int, int] = (1, 6),
    length: tuple[float, float] = (0.1, 0.4),
    thickness: tuple[float, float] = (0.05, 0.3),
) -> MaskSampler:
    """Free-form strokes are unknown: each is the trace of a disc on a random walk (as in LaMa, Suvorov et al. 2021,
    arXiv:2109.07161).

    A stroke starts anywhere, in any direction; from one straight piece to the next it turns by up to a right angle, and
    the ends of pieces are reflected at the edges of the image. No stroke is thinner than it takes to touch a token
    everywhere on its way, so something is unknown; the token farthest from all strokes stays known.

    Args:
        grid: token rows and columns.
        strokes: range of their number, every number equally likely.
        pieces: range of the number of straight pieces of a stroke, every number equally likely.
        length: range of the length of a piece, in units of the longer side.
        thickness: range of a stroke's thickness, in units of the shorter side.
    """
    tokens = count_tokens(grid)
    for name, (low, high) in (("strokes", strokes), ("pieces", pieces)):
        if not 1 <= low <= high:
            raise ValueError(f"{name} is a range 1 <= low <= high, got {(low, high)}")
    for name, (low, high) in (("length", length), ("thickness", thickness)):
        if not 0 <= low <= high <= 1:
            raise ValueError(f"{name} is a range 0 <= low <= high <= 1, got {(low, high)}")
    sides, middle = torch.tensor(grid), centres(grid)

    def draw(batch: int, generator: Generator | None = None) -> Bool[Tensor, "b n 1"]:
        number = strokes[0] + choose(torch.ones(strokes[1] - strokes[0] + 1), batch, generator)
        radius = _between(thickness, torch.rand(batch, strokes[1], 1, generator=generator)) * min(grid) / 2
        corners = walk(batch, generator)
        distance = torch.full((batch, strokes[1], tokens), torch.inf)
        for k in range(pieces[1]):
            distance = torch.minimum(distance, _to_segment(middle, corners[:, :, k], corners[:, :, k + 1]))
        gap = distance - radius.clamp(min=_TOUCHES)
        absent = torch.arange(strokes[1]) >= number[:, None]
        gap = gap.masked_fill(absent[..., None], torch.inf).amin(1)
        return (gap > 0).scatter(1, gap.argmax(1, keepdim=True), True)[..., None]

    def walk(batch: int, generator: Generator | None) -> Float[Tensor, "b strokes corners 2"]:
        shape = (batch, strokes[1], pieces[1])
        start = torch.rand(*shape[:2], 1, 2, generator=generator) * sides
        turn = torch.pi * (torch.rand(shape, generator=generator) - 0.5)
        turn[..., 0] = 2 * torch.pi * torch.rand(shape[:2], generator=generator)
        heading = turn.cumsum(-1)
        step = _between(length, torch.rand(shape, generator=generator)) * max(grid)
        number = torch.randint(pieces[0], pieces[1] + 1, (*shape[:2], 1), generator=generator)
        step = step * (torch.arange(pieces[1]) < number)  # the rest stands still
        moves = step[..., None] * torch.stack([heading.sin(), heading.cos()], -1)
        straight = torch.cat([start, start + moves.cumsum(2)], 2)
        return sides - (straight.remainder(2 * sides) - sides).abs()

    return draw


def _to_segment(
    points: Float[Tensor, "n 2"], a: Float[Tensor, "b strokes 2"], b: Float[Tensor, "b strokes 2"]
) -> Float[Tensor, "b strokes n"]:
    """Distance of every point to the segment from ``a`` to ``b``."""
    down, across = (b - a)[..., None].unbind(-2)
    row, column = (points.T - a[..., None]).unbind(-2)
    share = ((row * down + column * across) / (down.square() + across.square()).clamp(min=1e-12)).clamp(0, 1)
    return torch.hypot(row - share * down, column - share * across)


def _between(ends: tuple[float, float], u: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    return ends[0] + (ends[1] - ends[0]) * u
