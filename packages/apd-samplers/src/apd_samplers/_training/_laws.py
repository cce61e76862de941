"""Laws of one level, as quantile functions: a uniform number in (0, 1) in, a level out.

A quantile function, unlike a sampler, can be fed evenly spread numbers, and several levels can share one.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from .._named import named

LevelLaw = Callable[[Float[Tensor, "*s"]], Float[Tensor, "*s"]]


@named
def uniform() -> LevelLaw:
    """Levels uniform in [0, 1]."""
    return lambda u: u


UNIFORM = uniform()


@named
def logit_normal(mean: float = 0.0, std: float = 1.0) -> LevelLaw:
    """``sigmoid(mean + std g)`` with ``g`` standard normal: levels near the middle (Esser et al. 2024,
    arXiv:2403.03206, section 3.1). A positive ``mean`` moves them towards noise."""
    if not 0 < std < math.inf or not math.isfinite(mean):
        raise ValueError(f"mean must be finite and std positive, got mean={mean}, std={std}")

    def law(u: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        # Within the normal quantile's range in float32; the tails cut off hold 1e-7 of the mass each.
        return (mean + std * torch.special.ndtri(u.clamp(1e-7, 1 - 1e-7))).sigmoid()

    return law
