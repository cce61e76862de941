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

from ._conventions import Convention


@dataclass(frozen=True, slots=True)
class Levels:
    """The distinct levels of a batch, and which of them each token has.

    Args:
        log_snr: distinct levels, in nats.
        index: row of ``log_snr`` for each token, ``(b, n)``; an axis along which the level does not vary has size 1.
        label: class of each row, where a row is a pair of level and label.
    """

    log_snr: Float[Tensor, " u"]
    index: Int[Tensor, "b n"]
    label: Int[Tensor, " u"] | None = None


def distinct_levels(log_snr: Float[Tensor, "b n"]) -> Levels:
    """Finds the distinct levels; where all samples have one level each, they keep one index each.

    Levels that ask for a gradient are each taken as distinct: equal ones have derivatives of their own.
    """
    if log_snr.requires_grad:
        return Levels(log_snr.flatten(), torch.arange(log_snr.numel(), device=log_snr.device).view(log_snr.shape))
    if (log_snr == log_snr[:, :1]).all():
        log_snr = log_snr[:, :1]
    values, index = log_snr.unique(return_inverse=True)
    return Levels(values, index)


def with_labels(levels: Levels, label: Int[Tensor, " b"], classes: int) -> Levels:
    """The distinct pairs of level and label, of ``classes`` labels in all."""
    # What is no label gets a number that the embedding refuses, not that of another pair.
    label = torch.where((label >= 0) & (label < classes), label, classes)
    pairs, index = (levels.index * (classes + 1) + label[:, None]).unique(return_inverse=True)
    return Levels(levels.log_snr[pairs // (classes + 1)], index, pairs % (classes + 1))


@dataclass(frozen=True, slots=True)
class Rows:
    """Shift, scale and gate vectors of all tokens, as a table and the row that each looks up.

    Args:
        table: ``parts`` vectors for each row.
        index: row of each token; axes along which it does not vary have size 1.
        sample: added to those of every token of a sample.
    """

    table: Float[Tensor, "u parts width"]
    index: Int[Tensor, "#b #n"]
    sample: Float[Tensor, "samples parts width"] | None = None

    def part(self, k: int) -> Float[Tensor, "#b #n width"]:
        """Vector ``k`` of each token."""
        table = self.table[:, k]
        # Compiled, indexing is computed again in the backward pass, while an embedding is kept: four times the residual
        # stream a block. Eager, the embedding is the faster of the two.
        found = table[self.index] if torch.compiler.is_compiling() else F.embedding(self.index, table)
        return found if self.sample is None else found + self.sample[:, None, k]


class LevelEmbedding(nn.Module):
    """Sine and cosine features of a convention's clock, and a two-layer network, in float32.

    Args:
        width: size of the embedding.
        convention: gives the clock and the rates of its features.
    """

    def __init__(self, width: int, convention: Convention) -> None:
        super().__init__()
        self.convention = convention
        self.hidden = nn.Linear(2 * convention.frequencies, width)
        self.out = nn.Linear(width, width)

    def forward(self, log_snr: Float[Tensor, " u"]) -> Float[Tensor, "u width"]:
        of = self.convention
        exponent = torch.arange(of.frequencies, dtype=log_snr.dtype, device=log_snr.device) / (of.frequencies - 1)
        angle = of.clock(log_snr)[:, None] * (of.first_rate * (of.last_rate / of.first_rate) ** exponent)
        features = torch.cat([angle.sin(), angle.cos()], -1)
        return _by_row(self.out, F.silu(_by_row(self.hidden, features)))


class Modulation(nn.Module):
    """Makes a :class:`Rows` of features of the levels.

    The weights start at zero and the scales at one (adaLN-Zero): a block starts as the identity.

    Args:
        parts: how many vectors; of each three in turn the second is a scale.
        labels: whether samples have features too.
    """

    def __init__(self, width: int, parts: int, labels: bool = False) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)
        self.of_label = nn.Linear(width, parts * width, bias=False) if labels else None
        nn.init.zeros_(self.linear.weight)
        if self.of_label is not None:
            nn.init.zeros_(self.of_label.weight)
        with torch.no_grad():
            self.linear.bias.copy_((torch.arange(parts) % 3 == 1).float().repeat_interleave(width))

    def forward(
        self,
        of_level: Float[Tensor, "u width"],
        index: Int[Tensor, "#b #n"],
        of_label: Float[Tensor, "samples width"] | None = None,
    ) -> Rows:
        """
        Args:
            of_level: features of the rows.
            index: which of them each token has.
            of_label: features of the samples.
        """
        sample = None
        if self.of_label is not None and of_label is not None:
            sample = _by_row(self.of_label, of_label).unflatten(-1, (self.parts, -1))
        return Rows(_by_row(self.linear, of_level).unflatten(-1, (self.parts, -1)), index, sample)


def _by_row(linear: nn.Linear, x: Float[Tensor, "u width"]) -> Float[Tensor, "u out"]:
    """``linear(x)``; in evaluation, each row to the bit what it is among any others.

    CPU products of one to three rows sum in another order than those of more: with three spare rows there are never so
    few, and a sample does not depend on how many levels or samples share its batch.
    """
    return linear(x) if linear.training else linear(F.pad(x, (0, 0, 0, 3)))[: len(x)]


def sincos_2d(grid: tuple[int, int], width: int) -> Float[Tensor, "n width"]:
    """Sine and cosine features of row and column, ``width / 4`` frequencies each, periods 2 pi to 2 pi 10⁴ tokens."""
    quarter = width // 4
    rate = torch.exp(-math.log(10_000.0) * torch.arange(quarter) / quarter)
    row, column = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).reshape(-1, 2).T
    angles = torch.cat([row[:, None] * rate, column[:, None] * rate], -1)
    return torch.cat([angles.sin(), angles.cos()], -1)
