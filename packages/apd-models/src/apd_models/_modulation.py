"""Modulation by noise level, computed once per distinct level and gathered.

adaLN-Zero (Peebles & Xie 2023, arXiv:2212.09748) shifts, scales and gates every block by linear functions of an
embedding of the noise level. With a level per token, doing so for each token would cost a D → 6D product per token and
block, half as much again as the block. But tokens of equal level share their modulation, exactly: the product is taken
for the distinct levels of a batch, a table, and each token looks up its row.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Levels:
    """The distinct levels of a batch, and which of them each token has.

    Args:
        values: distinct levels, in [0, 1].
        index: row of ``values`` for each token, ``(b, n)``; an axis along which the level does not vary has size 1.
    """

    values: Float[Tensor, " u"]
    index: Int[Tensor, "b n"]


def distinct_levels(level: Float[Tensor, "b n"]) -> Levels:
    """Finds the distinct levels; where all samples have one level each, they keep one index each.

    Levels that ask for a gradient are each taken as distinct: equal ones have derivatives of their own.
    """
    if level.requires_grad:
        return Levels(level.flatten(), torch.arange(level.numel(), device=level.device).view(level.shape))
    if (level == level[:, :1]).all():
        level = level[:, :1]
    values, index = level.unique(return_inverse=True)
    return Levels(values, index)


class LevelEmbedding(nn.Module):
    """Sine and cosine features of the level, and a two-layer network, in float32.

    Args:
        width: size of the embedding.
        frequencies: number of sine and of cosine features, periods from 2 pi down to 2 pi / 1000 levels.
    """

    def __init__(self, width: int, frequencies: int = 64) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.hidden = nn.Linear(2 * frequencies, width)
        self.out = nn.Linear(width, width)

    def forward(self, level: Float[Tensor, " u"]) -> Float[Tensor, "u width"]:
        exponent = torch.arange(self.frequencies, device=level.device) / (self.frequencies - 1)
        angle = level[:, None] * 1000**exponent
        return self.out(F.silu(self.hidden(torch.cat([angle.sin(), angle.cos()], -1))))


class Modulation(nn.Module):
    """Shift, scale and gate vectors of every token, by its noise level.

    The weights start at zero and the scales at one (adaLN-Zero): a block starts as the identity.

    Args:
        parts: how many vectors; of each three in turn the second is a scale.
    """

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)
        nn.init.zeros_(self.linear.weight)
        with torch.no_grad():
            self.linear.bias.copy_((torch.arange(parts) % 3 == 1).float().repeat_interleave(width))

    def forward(
        self, of_level: Float[Tensor, "u width"], index: Int[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "b n width"], ...]:
        """
        Args:
            of_level: features of the distinct levels.
            index: which of them each token has.
        """
        tables = self.linear(of_level).unflatten(-1, (self.parts, -1)).unbind(-2)
        return tuple(F.embedding(index, table) for table in tables)


def sincos_2d(grid: tuple[int, int], width: int) -> Float[Tensor, "n width"]:
    """Sine and cosine features of row and column, ``width / 4`` frequencies each, periods 2 pi to 2 pi 10⁴ tokens."""
    quarter = width // 4
    rate = torch.exp(-math.log(10_000.0) * torch.arange(quarter) / quarter)
    row, column = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).reshape(-1, 2).T
    angles = torch.cat([row[:, None] * rate, column[:, None] * rate], -1)
    return torch.cat([angles.sin(), angles.cos()], -1)
