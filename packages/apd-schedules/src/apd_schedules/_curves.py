"""Orders of generation along a curve through the grid, one token a turn."""

import torch
from jaxtyping import Int
from torch import Tensor

from ._orders import check_grid


def spiral(grid: tuple[int, int], outward: bool = False) -> Int[Tensor, " n"]:
    """Clockwise from the first token along the border and on inwards, each token beside the one before.

    Args:
        grid: rows and columns of tokens.
        outward: the same curve from its inner end to the first token.

    >>> spiral((3, 3)).reshape(3, 3).tolist()
    [[0, 1, 2], [7, 8, 3], [6, 5, 4]]
    """
    rows, columns = check_grid(grid)
    left = torch.arange(rows * columns).reshape(rows, columns)
    visited: list[Tensor] = []
    while left.numel():  # peel off the top row and turn the rest, so that its right column is on top
        visited.append(left[0])
        left = left[1:].rot90()
    turn = torch.cat(visited).argsort()
    return rows * columns - 1 - turn if outward else turn


def hilbert(grid: tuple[int, int]) -> Int[Tensor, " n"]:
    """Along Hilbert's curve (1891): tokens near in turn are near in the image, at every scale.

    The curve fills the least square of side 2^k around the grid, from its top left to its top right corner; what
    lies outside the grid is left out. On such a square each token is beside the one before.

    >>> hilbert((2, 4)).reshape(2, 4).tolist()
    [[0, 1, 6, 7], [3, 2, 5, 4]]
    """
    rows, columns = check_grid(grid)
    row, column = torch.arange(rows)[:, None].expand(grid), torch.arange(columns).expand(grid)
    side = 1 << (max(grid) - 1).bit_length()
    along = torch.zeros(grid, dtype=torch.long)
    half = side // 2
    while half:
        low, right = (row & half) > 0, (column & half) > 0
        along += half * half * (3 * right.long() ^ low.long())  # quarters in the order of the letter U
        # Each quarter is the whole curve again; the first is reflected in one diagonal, the last in the other.
        mirrored = ~low & right
        row, column = torch.where(mirrored, side - 1 - row, row), torch.where(mirrored, side - 1 - column, column)
        row, column = torch.where(low, row, column), torch.where(low, column, row)
        half //= 2
    return along.flatten().argsort().argsort()
