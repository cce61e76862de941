"""Orders of generation: the turn of every token, for :func:`sequential` and :func:`staggered`.

Turns are 0, 1, 2, … with none left out, 0 first; tokens of equal turn go together. Tokens lie row-major on a grid of
rows and columns. Orders along a curve are in ``_curves``.
"""

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from ._paths import _count_turns


def raster(grid: tuple[int, int], down: int | None = None, across: int | None = None) -> Int[Tensor, " n"]:
    """Row by row, each row from left to right.

    Args:
        grid: rows and columns of tokens.
        down, across: cut the grid into that many cells, as equal as can be, and cross it cell by cell; the tokens of a
            cell go together. At most, and by default, one token a cell.
    """
    rows, columns = check_grid(grid)
    down = rows if down is None else min(down, rows)
    across = columns if across is None else min(across, columns)
    if down < 1 or across < 1:
        raise ValueError(f"a grid is cut into at least one cell, got {down} down and {across} across")
    row = torch.arange(rows) * down // rows
    column = torch.arange(columns) * across // columns
    return (row[:, None] * across + column).flatten()


def checkerboard(grid: tuple[int, int]) -> Int[Tensor, " n"]:
    """Two turns: the squares of the colour of the first token, then the others, each between known neighbours.

    >>> checkerboard((2, 3)).tolist()
    [0, 1, 0, 1, 0, 1]
    """
    rows, columns = check_grid(grid)
    return ((torch.arange(rows)[:, None] + torch.arange(columns)) % 2).flatten()


def coarse_to_fine(grid: tuple[int, int]) -> Int[Tensor, " n"]:
    """Scale by scale: every 2^k-th token of every 2^k-th row, then those at half the distance, to the last.

    The first distance is the largest power of two within the longer side, so that a square of side 2^k begins with one
    token and each turn makes the tokens of before four times as many.

    >>> coarse_to_fine((1, 6)).tolist()
    [0, 2, 1, 2, 0, 2]
    """
    rows, columns = check_grid(grid)
    row, column = torch.arange(rows)[:, None], torch.arange(columns)
    turn = torch.zeros(rows, columns, dtype=torch.long)
    for halvings in range(max(grid).bit_length() - 1):
        # Not a multiple of the distance after that many halvings: at least a turn later.
        distance = 1 << (max(grid).bit_length() - 1 - halvings)
        turn += ((row % distance != 0) | (column % distance != 0)).long()
    return turn.flatten()


def ranked(values: Float[Tensor, " n"] | Int[Tensor, " n"], groups: int | None = None) -> Int[Tensor, " n"]:
    """Your own priorities: the smallest value first, equal values together.

    Args:
        values: one a token, without NaN.
        groups: merge neighbouring turns into at most that many, as :func:`grouped` does.
    """
    if not values.numel() or values.isnan().any():
        where = values.isnan().nonzero().flatten().tolist()
        raise ValueError(f"priorities must be numbers, one a token, got {values.numel()} values, NaN at tokens {where}")
    turn = values.unique(return_inverse=True)[1]
    return turn if groups is None else grouped(turn, groups)


def one_by_one(turn: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The same order with no two tokens together: of equal turns, the first in the row-major order goes first.

    >>> one_by_one(torch.tensor([1, 0, 1, 0])).tolist()
    [2, 0, 3, 1]
    """
    _count_turns(turn)
    return turn.argsort(stable=True).argsort()


def grouped(turn: Int[Tensor, " n"], groups: int) -> Int[Tensor, " n"]:
    """The same order in fewer turns: neighbouring turns merged into ``groups``, each of as many turns as can be.

    Where there are no more turns than ``groups``, they stay as they are.

    >>> grouped(torch.tensor([0, 1, 2, 3, 4]), 2).tolist()
    [0, 0, 0, 1, 1]
    """
    turns = _count_turns(turn)
    if groups < 1:
        raise ValueError(f"turns are merged into at least one group, got {groups}")
    return turn.long() * min(groups, turns) // turns


def shuffled(turn: Int[Tensor, " n"], generator: Generator) -> Int[Tensor, " n"]:
    """The same groups of tokens with their turns in random order.

    Args:
        generator: on the CPU.
    """
    return torch.randperm(_count_turns(turn), generator=generator).to(turn.device)[turn]


def check_grid(grid: tuple[int, int]) -> tuple[int, int]:
    if min(grid) < 1:
        raise ValueError(f"a grid has at least one row and one column of tokens, got {grid}")
    return grid
