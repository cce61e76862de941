"""Samplers of maps with a clean part and a noisy part, as generation in an order and inpainting visit them."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from apd_schedules import raster

from .._named import named
from ._laws import UNIFORM, LevelLaw
from ._levels import LevelSampler, choose

Arrival = Callable[[tuple[int, int], int, Generator | None], Float[Tensor, "b n"]]
"""(grid, batch, generator) to when the front reaches each token, in [0, 1]."""


@named
def wavefront(
    grid: tuple[int, int], width: tuple[float, float] = (0.04, 2.0), arrivals: Sequence[Arrival] | None = None
) -> LevelSampler:
    """A soft front crosses the image: clean behind it, pure noise before it, a linear ramp between.

    What generation in an order passes through, at any sharpness: a ramp much wider than the image is nearly
    synchronous, a narrow one is one token after another.

    Args:
        grid: token rows and columns.
        width: range of the ramp's width, log-uniform, in units of the whole crossing.
        arrivals: how the front travels, each equally likely; by default along a direction, in raster order of cells,
            from or towards a point, and over cells in random order.
    """
    tokens = len(raster(grid))
    narrow, wide = width
    if not 0 < narrow <= wide:
        raise ValueError(f"width is a range 0 < narrow <= wide, got {width}")
    fields = [along_direction, in_raster, radially, in_random_cells] if arrivals is None else list(arrivals)

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
def clean_context(grid: tuple[int, int], law: LevelLaw = UNIFORM) -> LevelSampler:
    """Inpainting: a box of tokens, or all but a box, is clean, and the rest shares one level.

    Args:
        grid: token rows and columns.
        law: law of the level of the rest.
    """
    rows, columns = grid
    if len(raster(grid)) < 2:
        raise ValueError("a clean context needs at least two tokens")

    def levels(batch: int, generator: Generator | None = None) -> Float[Tensor, "b n 1"]:
        row = _interval(rows, batch, generator)
        column = _interval(columns, batch, generator)
        box = (row[:, :, None] & column[:, None, :]).flatten(1)
        outside = torch.rand(batch, 1, generator=generator) < 0.5
        clean = (box ^ outside) & ~box.all(1, keepdim=True)  # a box that is everything leaves no context
        level = law(torch.rand(batch, 1, generator=generator))
        return torch.where(clean, 0.0, level)[..., None]

    return levels


def along_direction(grid: tuple[int, int], batch: int, generator: Generator | None = None) -> Float[Tensor, "b n"]:
    """A straight front in a random direction."""
    angle = 2 * torch.pi * torch.rand(batch, generator=generator)
    return _unit(torch.stack([angle.sin(), angle.cos()], -1) @ _centres(grid).T)


def radially(grid: tuple[int, int], batch: int, generator: Generator | None = None) -> Float[Tensor, "b n"]:
    """A circle that grows from a random point of the image, or closes in on it."""
    centre = torch.rand(batch, 1, 2, generator=generator) * torch.tensor(grid)
    distance = _unit((_centres(grid) - centre).norm(dim=-1))
    return torch.where(torch.rand(batch, 1, generator=generator) < 0.5, distance, 1 - distance)


def in_raster(grid: tuple[int, int], batch: int, generator: Generator | None = None) -> Float[Tensor, "b n"]:
    """Row by row of square cells of 1, 2, 4, … tokens a side; a cell moves as one."""
    cell = _random_cells(grid, batch, generator)
    return cell / cell.amax(1, keepdim=True).clamp(min=1)


def in_random_cells(grid: tuple[int, int], batch: int, generator: Generator | None = None) -> Float[Tensor, "b n"]:
    """Square cells of 1, 2, 4, … tokens a side in random order; a cell moves as one."""
    cell = _random_cells(grid, batch, generator)
    count = cell.amax(1, keepdim=True) + 1
    key = torch.rand(cell.shape, generator=generator)
    absent = torch.arange(cell.shape[1]) >= count
    rank = key.masked_fill(absent, 2.0).argsort(1).argsort(1)
    return rank.gather(1, cell) / (count - 1).clamp(min=1)


def _random_cells(grid: tuple[int, int], batch: int, generator: Generator | None) -> Tensor:
    rows, columns = grid
    sides = [2**k for k in range(max((max(grid) - 1).bit_length(), 1))]
    table = torch.stack([raster(grid, -(-rows // side), -(-columns // side)) for side in sides])
    return table[torch.randint(len(sides), (batch,), generator=generator)]


def _centres(grid: tuple[int, int]) -> Float[Tensor, "n 2"]:
    """Centres of the tokens (row, column), in units of one token."""
    return torch.cartesian_prod(torch.arange(grid[0]) + 0.5, torch.arange(grid[1]) + 0.5).reshape(-1, 2)


def _interval(length: int, batch: int, generator: Generator | None) -> Tensor:
    """A random run of cells in each row: its length uniform from 1, its place uniform."""
    u = torch.rand(2, batch, 1, generator=generator)
    run = 1 + (u[0] * length).floor()
    start = (u[1] * (length - run + 1)).floor()
    at = torch.arange(length)
    return (at >= start) & (at < start + run)


def _unit(field: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    low, high = field.aminmax(dim=1, keepdim=True)
    return (field - low) / (high - low).clamp(min=1e-6)
