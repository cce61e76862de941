"""Orders of generation: the turn of every token, for :func:`sequential` and :func:`staggered`.

Tokens lie row-major on a grid of rows and columns.
"""

import torch
from jaxtyping import Int
from torch import Generator, Tensor


def raster(grid: tuple[int, int], down: int | None = None, across: int | None = None) -> Int[Tensor, " n"]:
    """Row by row, each row from left to right.

    Args:
        grid: rows and columns of tokens.
        down, across: cut the grid into that many cells, as equal as can be, and cross it cell by cell; the tokens of a
            cell go together. At most, and by default, one token a cell.
    """
    rows, columns = grid
    if rows < 1 or columns < 1:
        raise ValueError(f"a grid has at least one row and one column of tokens, got {grid}")
    down = rows if down is None else min(down, rows)
    across = columns if across is None else min(across, columns)
    if down < 1 or across < 1:
        raise ValueError(f"a grid is cut into at least one cell, got {down} down and {across} across")
    row = torch.arange(rows) * down // rows
    column = torch.arange(columns) * across // columns
    return (row[:, None] * across + column).flatten()


def shuffled(turn: Int[Tensor, " n"], generator: Generator) -> Int[Tensor, " n"]:
    """The same groups of tokens with their turns in random order."""
    return torch.randperm(int(turn.max()) + 1, generator=generator).to(turn.device)[turn]
