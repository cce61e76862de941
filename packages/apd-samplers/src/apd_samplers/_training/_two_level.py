"""Samplers that show two levels in a map."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from .._named import named
from ._laws import UNIFORM, LevelLaw
from ._levels import LevelSampler, spread
from ._masks import MaskSampler, fitting, scattered


@named
def two_level(
    tokens: int,
    share: tuple[float, float] | None = None,
    law: LevelLaw = UNIFORM,
    masks: MaskSampler | None = None,
) -> LevelSampler:
    """Two levels in a map, both from one law: Self-Flow's sampler (arXiv:2603.06507).

    The level of every token has exactly that law, as with one level for all, and still every token may see cleaner or
    noisier ones.

    Args:
        share: range of the fraction of tokens, anywhere, that take the second level, as for :func:`scattered`; by
            default (0, 0.5).
        law: law of both levels. Each is evenly spread over a batch.
        masks: which tokens take the second level, in place of ``share``.
    """
    if masks is not None and share is not None:
        raise ValueError(f"the second level is placed by share or by masks, not both, got {share} and {masks}")
    second = scattered(tokens, (0.0, 0.5) if share is None else share) if masks is None else fitting(masks, tokens)

    def levels(batch: int, generator: Generator | None = None) -> Float[Tensor, "b n 1"]:
        one, other = (law(spread(batch, generator))[:, None, None] for _ in range(2))
        return torch.where(second(batch, generator), other, one)

    return levels
