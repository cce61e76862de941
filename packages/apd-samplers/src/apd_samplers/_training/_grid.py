"""Where the tokens of a grid lie, in units of one token."""

import torch
from jaxtyping import Float
from torch import Tensor


def centres(grid: tuple[int, int]) -> Float[Tensor, "n 2"]:
    """Row and column of the middle of every token; the image is ``[0, rows] × [0, columns]``."""
    return torch.cartesian_prod(torch.arange(grid[0]) + 0.5, torch.arange(grid[1]) + 0.5).reshape(-1, 2)
