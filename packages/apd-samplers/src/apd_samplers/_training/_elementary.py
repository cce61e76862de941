"""Samplers of independent, shared and patchwise levels."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from apd_schedules import raster

from .._named import named
from ._laws import UNIFORM, LevelLaw
from ._levels import LevelSampler, choose, spread


@named
def shared(tokens: int, law: LevelLaw = UNIFORM) -> LevelSampler:
    """One level for all tokens of a sample: ordinary diffusion. The levels of a batch are evenly spread."""

    def levels(batch: int, generator: Generator | None = None) -> Float[Tensor, "b n 1"]:
        return law(spread(batch, generator))[:, None, None].expand(batch, tokens, 1)

    return levels


@named
def independent(tokens: int, law: LevelLaw = UNIFORM) -> LevelSampler:
    """Every token draws its own level (Diffusion Forcing, Chen et al. 2024, arXiv:2407.01392).

    Over many tokens the mean level hardly varies: nearly uniform maps, which sampling visits, are hardly ever seen.
    """

    def levels(batch: int, generator: Generator | None = None) -> Float[Tensor, "b n 1"]:
        return law(torch.rand(batch, tokens, 1, generator=generator))

    return levels


@named
def async_patch(
    grid: tuple[int, int],
    cells: Sequence[int] | None = None,
    low: float = 0.0,
    high: float = 1.0,
    max_spread: float = 0.5,
) -> LevelSampler:
    """Controlled mean and spread: AsyncPatch Diffusion's sampler (Papa et al. 2026, arXiv:2606.07079, figure 2).

    A mean ``m ~ U(low, high)``, a spread ``d = min(m - low, high - m, max_spread)``, a patch scale, and for each patch
    a level from ``U(m - d, m + d)``.

    Args:
        grid: token rows and columns.
        cells: patch scales to draw from, as patches per side, each equally likely. The paper does not state their law;
            by default 1, 2, 4, … and single tokens.
        low, high: range of the levels.
        max_spread: largest ``d``; the paper's 0.5 never binds on [0, 1].
    """
    tokens, side = len(raster(grid)), max(grid)
    scales = [*(2**k for k in range(side.bit_length()) if 2**k < side), side] if cells is None else list(cells)
    if not scales or min(scales) < 1:
        raise ValueError(f"cells are patches per side, at least 1, got {scales}")
    if not 0 <= low < high <= 1:
        raise ValueError(f"levels lie in 0 <= low < high <= 1, got low={low}, high={high}")
    if not max_spread >= 0:
        raise ValueError(f"max_spread must not be negative, got {max_spread}")
    patch_of_token = torch.stack([raster(grid, k, k) for k in scales])

    def levels(batch: int, generator: Generator | None = None) -> Float[Tensor, "b n 1"]:
        mean = (low + (high - low) * spread(batch, generator))[:, None]
        half = torch.minimum(mean - low, high - mean).clamp(max=max_spread)
        patch = patch_of_token[choose(torch.ones(len(scales)), batch, generator)]
        draws = torch.rand(batch, tokens, generator=generator)
        return (mean + half * (2 * draws.gather(1, patch) - 1)).clamp(low, high)[..., None]

    return levels
