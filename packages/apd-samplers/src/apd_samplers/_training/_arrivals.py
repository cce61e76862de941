"""Ways for a front to travel over the image: when it reaches each token. Choices of :func:`wavefront`.

The earliest token is reached at 0, the latest at 1.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from apd_schedules import raster

from ._grid import centres

Arrival = Callable[[tuple[int, int], int, Generator | None], Float[Tensor, "b n"]]
"""(grid, batch, generator) to when the front reaches each token, in [0, 1]."""


def straight_front(grid: tuple[int, int], batch: int, generator: Generator | None = None) -> Float[Tensor, "b n"]:
    """A straight line that moves in a random direction."""
    angle = 2 * torch.pi * torch.rand(batch, generator=generator)
    return _unit(torch.stack([angle.sin(), angle.cos()], -1) @ centres(grid).T)


def radial_front(grid: tuple[int, int], batch: int, generator: Generator | None = None) -> Float[Tensor, "b n"]:
    """A circle that grows from a random point of the image, or closes in on it."""
    centre = torch.rand(batch, 1, 2, generator=generator) * torch.tensor(grid)
    distance = _unit((centres(grid) - centre).norm(dim=-1))
    return torch.where(torch.rand(batch, 1, generator=generator) < 0.5, distance, 1 - distance)


def raster_front(grid: tuple[int, int], batch: int, generator: Generator | None = None) -> Float[Tensor, "b n"]:
    """Row by row of cells of about 1, 2, 4, … tokens a side; a cell moves as one."""
    cell = _random_cells(grid, batch, generator)
    return cell / cell.amax(1, keepdim=True).clamp(min=1)


def random_cells_front(grid: tuple[int, int], batch: int, generator: Generator | None = None) -> Float[Tensor, "b n"]:
    """Cells of about 1, 2, 4, … tokens a side in random order; a cell moves as one."""
    cell = _random_cells(grid, batch, generator)
    count = cell.amax(1, keepdim=True) + 1
    key = torch.rand(cell.shape, generator=generator)
    absent = torch.arange(cell.shape[1]) >= count
    rank = key.masked_fill(absent, 2.0).argsort(1).argsort(1)
    return rank.gather(1, cell) / (count - 1).clamp(min=1)


def _random_cells(grid: tuple[int, int], batch: int, generator: Generator | None) -> Int[Tensor, "b n"]:
    rows, columns = grid
    sides = [2**k for k in range(max((max(grid) - 1).bit_length(), 1))]
    table = torch.stack([raster(grid, -(-rows // side), -(-columns // side)) for side in sides])
    return table[torch.randint(len(sides), (batch,), generator=generator)]


def _unit(field: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    low, high = field.aminmax(dim=1, keepdim=True)
    return (field - low) / (high - low).clamp(min=1e-6)
