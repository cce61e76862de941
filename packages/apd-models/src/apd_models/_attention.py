"""Which tokens see which, and where they are."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from ._block import Attend, Heads

CLEAN = 12.0
"""Log-SNR from which a token counts as clean: its noise, ``e⁻⁶``, is below half of one of 256 grey levels."""

NOISE = -12.0
"""Log-SNR up to which a token counts as pure noise: what it shows of the image is ``e⁻⁶`` of the noise."""


def equals_seen(log_snr: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """With one-way attention, whether a token sees others as noisy as itself: not if clean, not if pure noise."""
    return (log_snr < CLEAN) & (log_snr > NOISE)


def one_way(
    of: Float[Tensor, "b k"], among: Float[Tensor, "b n"], same: Bool[Tensor, "#b k n"]
) -> Bool[Tensor, "b k n"]:
    """Which of the tokens ``among`` those of ``of`` see: themselves, cleaner ones, and some of those as noisy.

    Args:
        of, among: log-SNRs.
        same: which pairs are one token.
    """
    mine, theirs = of[:, :, None], among[:, None, :]
    return same | (theirs > mine) | ((theirs == mine) & equals_seen(mine))


def seeing(visible: Bool[Tensor, "b k n"]) -> Attend:
    """Attention under a mask."""
    mask = visible[:, None]
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


Turn = tuple[Float[Tensor, "*batch n pairs"], Float[Tensor, "*batch n pairs"]]
"""Cosine and sine of the angle by which each pair of a head's elements is turned, at each token."""


def turns(grid: tuple[int, int], trained: tuple[int, int], head: int, context: int, device: torch.device) -> Turn:
    """Axial rotary positions (Heo et al. 2024, arXiv:2403.13298): half of the pairs by row, half by column.

    Rates fall from 1 radian a token to 1/100. On another grid than that of training, positions are scaled so that its
    middles and edges lie where they lay (Chen et al. 2023, arXiv:2306.15595).

    Args:
        trained: the grid of training.
        head: width of a head.
        context: tokens that come first and are not turned.
    """
    quarter = head // 4
    rate = torch.exp(-math.log(100.0) * torch.arange(quarter, device=device) / quarter)
    at = [(torch.arange(n, device=device) + 0.5) * (m / n) - 0.5 for n, m in zip(grid, trained, strict=True)]
    row, column = torch.cartesian_prod(*at).reshape(-1, 2).T
    angle = torch.cat([row[:, None] * rate, column[:, None] * rate], -1)
    angle = F.pad(angle, (0, 0, context, 0))
    return angle.cos(), angle.sin()


def turned(x: Heads, turn: Turn) -> Heads:
    """Each pair ``(x_i, x_{i + head/2})`` turned by its token's angle."""
    cos, sin = (part.to(x.dtype).unsqueeze(-3) for part in turn)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


Watch = Callable[[Heads, Heads], object]
"""Is shown keys and values, turned."""


def watched(attend: Attend, watch: Watch) -> Attend:
    """Keys and values shown first."""

    def look(q: Heads, k: Heads, v: Heads) -> Heads:
        watch(k, v)
        return attend(q, k, v)

    return look


def with_turns(attend: Attend, turn: Turn) -> Attend:
    """Queries and keys turned first."""
    return lambda q, k, v: attend(turned(q, turn), turned(k, turn), v)
