"""Samplers of shared, independent, patchwise and correlated levels."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from apd_schedules import correlated_offsets, raster

from .._named import named
from ._laws import UNIFORM, LevelLaw, logit_normal
from ._levels import LevelSampler, choose, spread
from ._patch_marginal import AsyncPatchMarginal


@named
def shared(tokens: int, law: LevelLaw = UNIFORM) -> LevelSampler:
    """One level for all tokens of a sample: ordinary diffusion. The levels of a batch are evenly spread."""
    check_tokens(tokens)

    def levels(batch: int, generator: Generator | None = None) -> Float[Tensor, "b n 1"]:
        return law(spread(batch, generator))[:, None, None].expand(batch, tokens, 1)

    return levels


@named
def independent(tokens: int, law: LevelLaw = UNIFORM) -> LevelSampler:
    """Every token draws its own level (Diffusion Forcing, Chen et al. 2024, arXiv:2407.01392).

    Over many tokens the mean level hardly varies: nearly uniform maps, which sampling visits, are hardly ever seen.
    """
    check_tokens(tokens)

    def levels(batch: int, generator: Generator | None = None) -> Float[Tensor, "b n 1"]:
        return law(torch.rand(batch, tokens, 1, generator=generator))

    return levels


@named
def correlated(grid: tuple[int, int], length: float, law: LevelLaw = UNIFORM) -> LevelSampler:
    """Every level has exactly the given law, and neighbours are alike: a Gaussian copula.

    Args:
        grid: token rows and columns.
        length: of the correlation, in tokens, see ``apd_schedules.correlated_offsets``: 0 is :func:`independent`, and
            much longer than the image is nearly :func:`shared`.
        law: law of every level.
    """
    offsets = correlated_offsets(grid, length)

    def levels(batch: int, generator: Generator | None = None) -> Float[Tensor, "b n 1"]:
        return law(offsets(batch, generator)).to(torch.get_default_dtype())

    return levels


@named
def patchwise(
    grid: tuple[int, int],
    cells: Sequence[int] | None = None,
    shares: Sequence[float] | None = None,
    law: LevelLaw = UNIFORM,
) -> LevelSampler:
    """Every patch draws its own level, at a random patch scale: the naive baseline of AsyncPatch Diffusion (Papa et al.
    2026, arXiv:2606.07079).

    Args:
        grid: token rows and columns.
        cells, shares: law of the patch scale, as for :func:`async_patch`.
        law: law of every level.
    """
    patch_of_token, chances = _scales(grid, cells, shares)

    def levels(batch: int, generator: Generator | None = None) -> Float[Tensor, "b n 1"]:
        patch = patch_of_token[choose(chances, batch, generator)]
        return law(torch.rand(patch.shape, generator=generator)).gather(1, patch)[..., None]

    return levels


@named
def async_patch(
    grid: tuple[int, int],
    cells: Sequence[int] | None = None,
    low: float = 0.0,
    high: float = 1.0,
    max_spread: float = 0.5,
    shares: Sequence[float] | None = None,
) -> LevelSampler:
    """Controlled mean and spread: AsyncPatch Diffusion's sampler (Papa et al. 2026, arXiv:2606.07079, figure 2).

    A mean ``m ~ U(low, high)``, a spread ``d = min(m - low, high - m, max_spread)``, a patch scale, and for each patch
    a level from ``U(m - d, m + d)``. Every level has the law :class:`AsyncPatchMarginal`.

    Args:
        grid: token rows and columns.
        cells: patch scales to draw from, as patches per side. The paper does not state their law; by default 1, 2, 4, …
            and single tokens.
        low, high: range of the levels.
        max_spread: largest ``d``; the paper's 0.5 never binds on [0, 1].
        shares: of the scales, divided by their sum; by default all are equally likely.
    """
    patch_of_token, chances = _scales(grid, cells, shares)
    AsyncPatchMarginal(low, high, max_spread)  # refuses what is no range

    def levels(batch: int, generator: Generator | None = None) -> Float[Tensor, "b n 1"]:
        mean = (low + (high - low) * spread(batch, generator))[:, None]
        half = torch.minimum(mean - low, high - mean).clamp(max=max_spread)
        patch = patch_of_token[choose(chances, batch, generator)]
        draws = torch.rand(patch.shape, generator=generator)
        return (mean + half * (2 * draws.gather(1, patch) - 1)).clamp(low, high)[..., None]

    return levels


@named
def truncated_gaussian(tokens: int, location: float = 0.7, scale: float = 1.0, std: float = 0.6) -> LevelSampler:
    """Controlled cleanest level: Patch Forcing's sampler (arXiv:2604.19141).

    In the time ``tau = 1 - level``: a largest ``tau_max = sigmoid(location + scale g)``, and below it each token at
    ``tau = tau_max - s |g_i|``, with ``s = min(tau_max / 2, std)`` and ``g, g_i`` standard normal; where that is
    negative, the token is uniform on ``(0, tau_max)``.

    It hardly shows nearly clean maps: with the defaults 0.3 % of the levels lie below 0.1, and of 200,000 maps of 64
    tokens none has a mean level below 0.25. Trained on it alone, a model has seen neither the end of generation nor a
    clean context.

    Args:
        location, scale: of ``tau_max``, in logits.
        std: largest ``s``. From 0.5 on it never binds, as in the published setting.
    """
    check_tokens(tokens)
    if not (0 < scale < math.inf and 0 < std):
        raise ValueError(f"scale and std must be positive, got scale={scale}, std={std}")
    cleanest = logit_normal(location, scale)

    def levels(batch: int, generator: Generator | None = None) -> Float[Tensor, "b n 1"]:
        largest = cleanest(spread(batch, generator))[:, None, None]
        below = torch.randn(batch, tokens, 1, generator=generator).abs() * (largest / 2).clamp(max=std)
        anywhere = largest * torch.rand(batch, tokens, 1, generator=generator)
        return 1 - torch.where(below <= largest, largest - below, anywhere)

    return levels


def check_tokens(tokens: int) -> None:
    if tokens < 1:
        raise ValueError(f"a map has at least one token, got {tokens}")


def _scales(
    grid: tuple[int, int], cells: Sequence[int] | None, shares: Sequence[float] | None
) -> tuple[Int[Tensor, "k n"], Float[Tensor, " k"]]:
    """The patch of every token at every scale, and the share of each scale."""
    raster(grid)  # refuses a grid without tokens
    side = max(grid)
    scales = [*(2**k for k in range(side.bit_length()) if 2**k < side), side] if cells is None else list(cells)
    if not scales or min(scales) < 1:
        raise ValueError(f"cells are patches per side, at least 1, got {scales}")
    chances = [1.0] * len(scales) if shares is None else list(shares)
    if len(chances) != len(scales) or not all(0 < share < math.inf for share in chances):
        raise ValueError(f"shares are positive, one for each of the scales {scales}, got {chances}")
    return torch.stack([raster(grid, k, k) for k in scales]), torch.tensor(chances)
