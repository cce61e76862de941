"""Outpainting: an image on a larger grid, whose new tokens are unknown."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def extend(
    x: Float[Tensor, "*batch n d"],
    grid: tuple[int, int],
    *,
    top: int = 0,
    bottom: int = 0,
    left: int = 0,
    right: int = 0,
) -> tuple[Float[Tensor, "*batch m d"], Bool[Tensor, "m 1"], tuple[int, int]]:
    """Tokens of an image with rows and columns of new ones around, for :func:`inpaint`.

    Args:
        x: row-major on ``grid``.
        grid: rows and columns of tokens.
        top, bottom: new rows.
        left, right: new columns.

    Returns:
        The tokens, zero where new; which of them are known; the larger grid.
    """
    rows, columns = grid
    if x.shape[-2] != rows * columns:
        raise ValueError(f"a grid of {rows} by {columns} has {rows * columns} tokens, got {x.shape[-2]}")
    if min(top, bottom, left, right) < 0:
        raise ValueError(f"an image is extended by 0 tokens or more, got {top}, {bottom}, {left} and {right}")
    known = F.pad(x.new_ones(grid).bool(), (left, right, top, bottom))
    larger = F.pad(x.unflatten(-2, grid), (0, 0, left, right, top, bottom))
    return larger.flatten(-3, -2), known.flatten()[:, None], (top + rows + bottom, left + columns + right)
