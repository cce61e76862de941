"""Masks of Perlin noise, and maps with one level on such a mask beside a background that is clean or pure noise."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from .._named import named
from ._laws import UNIFORM, LevelLaw
from ._levels import LevelSampler, choose, spread
from ._masks import MaskSampler, count_tokens, counts, smallest


@named
def blobs(
    grid: tuple[int, int], share: tuple[float, float] = (0.0, 1.0), frequencies: Sequence[int] = (2, 4, 8)
) -> MaskSampler:
    """Blobs of Perlin noise are known: the tokens where it is lowest, so many that their share is controlled.

    The noise is periodic and shifted at random, so a mask of k of n tokens holds each of them with probability k / n.

    Args:
        grid: token rows and columns.
        share: range of the known fraction, as for :func:`scattered`.
        frequencies: cells of the noise's lattices along the longer side; each adds noise of amplitude 1 / frequency.
    """
    count = counts(count_tokens(grid), share)
    if not frequencies or min(frequencies) < 1:
        raise ValueError(f"frequencies are cells along the longer side, at least 1, got {frequencies}")

    def draw(batch: int, generator: Generator | None = None) -> Bool[Tensor, "b n 1"]:
        fields = [gradient_noise(grid, frequency, batch, generator) / frequency for frequency in frequencies]
        return smallest(torch.stack(fields).sum(0), count(batch, generator))

    return draw


@named
def perlin(
    grid: tuple[int, int],
    share: tuple[float, float] = (0.0, 1.0),
    frequencies: Sequence[int] = (2, 4, 8),
    law: LevelLaw = UNIFORM,
) -> LevelSampler:
    """Blobs of Perlin noise share one level; the background is clean or pure noise, each equally likely.

    The masks of RAD (Kim et al. 2025, arXiv:2412.09191) as AsyncPatch Diffusion's baseline uses them (Papa et al. 2026,
    arXiv:2606.07079).

    Args:
        grid: token rows and columns.
        share, frequencies: of the blobs, as for :func:`blobs`.
        law: law of their level.
    """
    masks = blobs(grid, share, frequencies)

    def levels(batch: int, generator: Generator | None = None) -> Float[Tensor, "b n 1"]:
        level = law(spread(batch, generator))[:, None, None]
        background = choose(torch.ones(2), batch, generator).to(level)[:, None, None]
        return torch.where(masks(batch, generator), level, background)

    return levels


def gradient_noise(
    grid: tuple[int, int], frequency: int, batch: int, generator: Generator | None = None
) -> Float[Tensor, "b n"]:
    """Perlin's noise (1985, with the fade of 2002) on a torus, at the middles of the tokens.

    A lattice of random unit gradients; a point blends the four linear functions ``gradient · (point - node)`` of the
    corners of its cell. The lattice is shifted at random, so no token lies at nodes, where the noise is 0, more often
    than another.

    Args:
        frequency: lattice cells along the longer side; along the shorter as many in proportion, rounded.
    """
    cells = [max(1, round(frequency * side / max(grid))) for side in grid]
    angle = 2 * torch.pi * torch.rand(batch, cells[0] * cells[1], generator=generator)
    gradient = torch.stack([angle.sin(), angle.cos()], -1)
    axes = []
    for side, number in zip(grid, cells, strict=True):
        shift = torch.rand(batch, 1, generator=generator)
        at = number * ((torch.arange(side) + 0.5) / side + shift)
        axes.append((at.floor().long(), at - at.floor()))
    (row, y), (column, x) = axes
    blend_y, blend_x = (fraction**3 * (fraction * (6 * fraction - 15) + 10) for fraction in (y, x))
    noise = torch.zeros(batch, *grid)
    for down in (0, 1):
        for across in (0, 1):
            node = ((row + down) % cells[0])[:, :, None] * cells[1] + ((column + across) % cells[1])[:, None, :]
            slope = gradient.gather(1, node.flatten(1)[..., None].expand(-1, -1, 2)).reshape(batch, *grid, 2)
            plane = slope[..., 0] * (y - down)[:, :, None] + slope[..., 1] * (x - across)[:, None, :]
            weight_y, weight_x = (blend_y if down else 1 - blend_y), (blend_x if across else 1 - blend_x)
            noise = noise + plane * weight_y[:, :, None] * weight_x[:, None, :]
    return noise.flatten(1)
