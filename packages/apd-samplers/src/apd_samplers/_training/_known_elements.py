"""Maps with a level an element: tokens that are known in part."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from .._named import named
from ._levels import LevelSampler, choose

ElementMaskSampler = Callable[[int, Generator | None], Bool[Tensor, "b n d"]]
"""(batch, generator) to which elements of the tokens are known. Without a generator, torch's global one."""


@named
def known_elements(sampler: LevelSampler, masks: ElementMaskSampler, share: float = 0.3) -> LevelSampler:
    """The maps of ``sampler``, and in a share of them the elements of a mask are clean instead.

    For models that take one level an element: they learn what it means that some pixels of a token are known and
    others are noise. All maps are given with a level an element.

    Args:
        sampler: of levels of tokens, or of elements.
        share: of the maps that a mask is laid over, in [0, 1]; exact in each batch to within one.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share lies in [0, 1], got {share}")

    def levels(batch: int, generator: Generator | None = None) -> Float[Tensor, "b n d"]:
        level, known = sampler(batch, generator), masks(batch, generator)
        if known.shape[1] != level.shape[1]:
            raise ValueError(f"the masks are of {known.shape[1]} tokens, the maps of {level.shape[1]}")
        laid = choose(torch.tensor([share, 1 - share]), batch, generator) == 0
        return torch.where(known & laid[:, None, None], 0.0, level)

    return levels
