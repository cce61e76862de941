"""Samplers of maps with a clean part and a noisy part, as generation in an order and inpainting visit them."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from apd_schedules import raster

from .._named import named
from ._arrivals import Arrival, radial_front, random_cells_front, raster_front, straight_front
from ._laws import UNIFORM, LevelLaw
from ._levels import LevelSampler, choose
from ._masks import MaskSampler, count_tokens, fitting, run


@named
def wavefront(
    grid: tuple[int, int], width: tuple[float, float] = (0.04, 2.0), arrivals: Sequence[Arrival] | None = None
) -> LevelSampler:
    """A soft front crosses the image: clean behind it, pure noise before it, a linear ramp between.

    What generation in an order passes through. With the default widths a twenty-fifth of the way is on the ramp at
    least, so on large grids never a single token; and at most all of it, with levels up to half a unit apart, so it is
    no substitute for :func:`shared`. For one token after another take widths down to one over their number.

    Args:
        grid: token rows and columns.
        width: range of the ramp's width, log-uniform, in units of the whole crossing.
        arrivals: how the front travels, each equally likely; by default :func:`straight_front`, :func:`raster_front`,
            :func:`radial_front` and :func:`random_cells_front`.
    """
    tokens = len(raster(grid))
    narrow, wide = width
    if not 0 < narrow <= wide:
        raise ValueError(f"width is a range 0 < narrow <= wide, got {width}")
    fields = [straight_front, raster_front, radial_front, random_cells_front] if arrivals is None else list(arrivals)
    if not fields:
        raise ValueError("a wavefront needs at least one way to travel, got arrivals=[]")

    def levels(batch: int, generator: Generator | None = None) -> Float[Tensor, "b n 1"]:
        chosen = choose(torch.ones(len(fields)), batch, generator)
        arrival = torch.stack([field(grid, batch, generator) for field in fields])
        arrival = arrival[chosen, torch.arange(batch)]
        u = torch.rand(2, batch, 1, generator=generator)
        ramp = narrow * (wide / narrow) ** u[0]
        front = u[1] * (1 + ramp) - ramp  # at -ramp all is noise, at 1 all is clean
        return ((arrival - front) / ramp).clamp(0, 1).reshape(batch, tokens, 1)

    return levels


@named
def clean_context(
    grid: tuple[int, int],
    law: LevelLaw | None = None,
    masks: MaskSampler | None = None,
    rest: LevelSampler | None = None,
) -> LevelSampler:
    """Inpainting: the known tokens are clean, and the rest shares one level.

    Args:
        grid: token rows and columns.
        law: law of the level of the rest, uniform by default.
        masks: which tokens are known. By default a box of tokens, of height and width uniform from one token to the
            image's, or all but such a box. A mask of everything counts as one of nothing: from a map that is all clean
            there is nothing to learn.
        rest: levels of the rest, token by token, in place of one from ``law``.
    """
    tokens = count_tokens(grid)
    if rest is not None and law is not None:
        raise ValueError(f"the levels of the rest come from law or from rest, not both, got {law} and {rest}")
    level_of = UNIFORM if law is None else law
    masks = _box_or_complement(grid) if masks is None else fitting(masks, tokens)
    if rest is not None and (found := rest(1, Generator().manual_seed(0)).shape[1]) != tokens:
        raise ValueError(f"the rest has levels of {found} tokens, the maps of {tokens}")

    def levels(batch: int, generator: Generator | None = None) -> Float[Tensor, "b n e"]:
        known = masks(batch, generator)
        clean = known & ~known.all(1, keepdim=True)
        level = level_of(torch.rand(batch, 1, 1, generator=generator)) if rest is None else rest(batch, generator)
        return torch.where(clean, 0.0, level)

    return levels


def _box_or_complement(grid: tuple[int, int]) -> MaskSampler:
    def draw(batch: int, generator: Generator | None = None) -> Bool[Tensor, "b n 1"]:
        row = _interval(grid[0], batch, generator)
        column = _interval(grid[1], batch, generator)
        box = (row[:, :, None] & column[:, None, :]).flatten(1)
        outside = torch.rand(batch, 1, generator=generator) < 0.5
        return (box ^ outside)[..., None]

    return draw


def _interval(length: int, batch: int, generator: Generator | None) -> Bool[Tensor, "b length"]:
    """A random run of cells in each row: its length uniform from 1, its place uniform."""
    u = torch.rand(2, batch, generator=generator)
    return run(length, 1 + (u[0] * length).floor(), u[1])
