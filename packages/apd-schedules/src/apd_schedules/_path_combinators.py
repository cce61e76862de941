"""Paths made of paths, and what is asked of a path of your own."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ._noise import Path

ROUNDING = 1e-6
"""By how much the ends of a user's own path or warp may be off: a few roundings in float32."""


def hold_at(path: Path, known: Bool[Tensor, "*batch n e"], level: int | float | Float[Tensor, "..."]) -> Path:
    """Known tokens (or elements) stay at a level along the whole path: a context that is itself partly noise.

    With ``level=1`` they wait, which makes the first of two paths for :func:`concatenate`.

    Args:
        known: ``(*batch, n, 1)`` for tokens, ``(*batch, n, d)`` for elements. With batch axes each sample has its own
            region, and the path returns ``(*s, *batch, n, e)``.
        level: in [0, 1], a number or a tensor that broadcasts against ``known``.
    """
    at = level if isinstance(level, Tensor) else torch.tensor(level, dtype=torch.float64)
    if not ((at >= 0) & (at <= 1)).all():
        raise ValueError(f"tokens are held at levels in [0, 1], got {_outside(at)}")
    try:
        region, at = torch.broadcast_tensors(known, at)
    except RuntimeError:
        raise ValueError(
            f"levels must be a number or broadcast against known, {tuple(known.shape)}, got shape {tuple(at.shape)}"
        ) from None

    def held(s: Float[Tensor, "*s"]) -> Float[Tensor, "*sbatch n e"]:
        levels = _lead(path(s), s.ndim, region.ndim)
        return torch.where(region.to(s.device), at.to(levels), levels)

    return held


def hold_clean(path: Path, known: Bool[Tensor, "*batch n e"]) -> Path:
    """Inpainting: known tokens (or elements) stay clean along the whole path.

    Args:
        known: ``(*batch, n, 1)`` for tokens, ``(*batch, n, d)`` for elements. With batch axes each sample has its own
            region, and the path returns ``(*s, *batch, n, e)``.
    """
    return hold_at(path, known, 0.0)


def concatenate(paths: Sequence[Path], shares: Sequence[int | float] | None = None) -> Path:
    """One path after another in the order of generation.

    Each may be a part of the way: ``concatenate([hold_at(p, ~first, 1.0), hold_clean(p, first)])`` generates the region
    ``first`` along ``p`` while the rest waits, then the rest.

    Args:
        paths: where one ends (its ``s = 0``) the next begins (its ``s = 1``). They may differ in batch axes and in
            levels a token where these broadcast.
        shares: how much of ``s`` each takes, in any unit; equal by default.
    """
    paths = tuple(paths)
    shares = (1.0,) * len(paths) if shares is None else tuple(shares)
    whole = math.fsum(shares)
    usable = whole < math.inf and all(share > 0 and share >= ROUNDING * whole for share in shares)
    if not paths or len(shares) != len(paths) or not usable:
        raise ValueError(
            f"concatenate takes one path or more and for each a share above 0, a millionth of the whole or more, "
            f"got {len(paths)} paths and shares {list(shares)}"
        )
    _check_seams(paths)
    edges = 1 - torch.tensor((0.0, *shares), dtype=torch.float64).cumsum(0) / whole
    edges[-1] = 0

    def path(s: Float[Tensor, "*s"]) -> Float[Tensor, "*sbatch n e"]:
        edge = edges.to(s)
        parts = [p(((s - b) / (a - b)).clamp(0, 1)) for p, a, b in zip(paths, edge[:-1], edge[1:], strict=True)]
        ndim = max(part.ndim for part in parts) - s.ndim
        levels = _lead(parts[-1], s.ndim, ndim)
        for part, end in zip(parts[-2::-1], edge.flip(0)[1:], strict=False):
            own = s.reshape(*s.shape, *(1,) * ndim)
            levels = torch.where(own >= end, _lead(part, s.ndim, ndim), levels)
        return levels

    return path


def product(spatial: Path, element: Path) -> Path:
    """An order of elements inside an order of tokens: each token follows ``element`` by its own progress.

    ``level[i, j] = element(spatial(s)[i])[j]``.

    Args:
        spatial: one level a token, ``(*s, *batch, n, 1)``.
        element: the elements of a token as its tokens, ``(*s, d, 1)``, without batch axes.
    """
    half = torch.tensor(0.5, dtype=torch.float64)
    for name, shape in (("spatial", spatial(half).shape), ("element", element(half).shape)):
        if shape[-1] != 1 or (name == "element" and len(shape) != 2):
            raise ValueError(
                f"the {name} path of a product must have one level a token"
                f"{' and no batch axes' if name == 'element' else ''}, got levels of shape {tuple(shape)}"
            )

    def path(s: Float[Tensor, "*s"]) -> Float[Tensor, "*sbatch n d"]:
        return element(spatial(s)[..., 0])[..., 0]

    return path


def warp(path: Path, fn: Callable[[Tensor], Tensor]) -> Path:
    """The same curve at another speed; ``fn`` is a non-decreasing map of [0, 1] onto itself."""
    for s, end in ((0.0, "clean"), (1.0, "noise")):
        if not abs(fn(torch.tensor(s, dtype=torch.float64)).item() - s) <= ROUNDING:
            raise ValueError(f"a warp must keep the {end} end of the path: fn({s:g}) must be {s:g}")
    grid = torch.linspace(0, 1, 257, dtype=torch.float64)
    steps = fn(grid).diff()
    if not (steps >= -ROUNDING).all():
        at = int((~(steps >= -ROUNDING)).nonzero()[0])
        low, high = grid[at : at + 2].tolist()
        raise ValueError(f"a warp must not run back, but fn falls, or is NaN, between s = {low:g} and {high:g}")
    return lambda s: path(fn(s))


def check_monotone(path: Path, points: int = 257) -> Path:
    """The path itself, after a look at a grid of ``s``: is every level in [0, 1], and none falls where ``s`` grows?

    For a path of your own, whose errors would otherwise show only as bad samples. Rounding, up to 1e-6, is let pass.

    Args:
        path: any.
        points: of the grid, at least 2, both ends included. A path that runs back between two of them is not noticed.
    """
    if points < 2:
        raise ValueError(f"a path is checked at two points or more, got {points}")
    grid = torch.linspace(0, 1, points, dtype=torch.float64)
    levels = path(grid)
    if levels.ndim < 3 or len(levels) != points:
        raise ValueError(f"a path of {points} values of s must return (s, *batch, n, e), got {tuple(levels.shape)}")
    bad = ~((levels >= -ROUNDING) & (levels <= 1 + ROUNDING))
    if bad.any():
        at, *where = bad.nonzero()[0].tolist()
        raise ValueError(
            f"levels must be in [0, 1], but {_name(where, levels)} is at {levels[at][*where]:g} at s = {grid[at]:g}"
        )
    bad = levels.diff(dim=0) < -ROUNDING
    if bad.any():
        at, *where = bad.nonzero()[0].tolist()
        raise ValueError(
            f"levels must not fall where s grows, but {_name(where, levels)} goes from {levels[at][*where]:g} at s = "
            f"{grid[at]:g} to {levels[at + 1][*where]:g} at s = {grid[at + 1]:g}"
        )
    return path


def _lead(levels: Float[Tensor, "..."], s_axes: int, axes: int) -> Float[Tensor, "..."]:
    """Levels with the axes after those of ``s`` filled up from the left, so that batch axes broadcast."""
    ones = (1,) * (axes - (levels.ndim - s_axes))
    return levels.reshape(*levels.shape[:s_axes], *ones, *levels.shape[s_axes:])


def _check_seams(paths: Sequence[Path]) -> None:
    starts = [path(torch.tensor(1.0, dtype=torch.float64)) for path in paths]
    shapes = [tuple(start.shape) for start in starts]
    try:
        torch.broadcast_shapes(*shapes)
    except RuntimeError:
        fits = False
    else:
        fits = len({shape[-2] for shape in shapes}) == 1
    if not fits:
        raise ValueError(f"paths in a row must be of the same tokens and samples, got levels of shapes {shapes}")
    for i, start in enumerate(starts[1:]):
        end, start = torch.broadcast_tensors(paths[i](torch.tensor(0.0, dtype=torch.float64)), start)
        bad = ~((end - start).abs() <= ROUNDING)
        if bad.any():
            where = tuple(bad.nonzero()[0].tolist())
            raise ValueError(
                f"path {i + 1} must begin where path {i} ends, but {_name(where, end)} ends at {end[where]:g} and "
                f"begins at {start[where]:g}"
            )


def _name(where: Sequence[int], levels: Float[Tensor, "..."]) -> str:
    *sample, token, element = where
    name = f"element {element} of token {token}" if levels.shape[-1] > 1 else f"token {token}"
    return f"{name} of sample {', '.join(map(str, sample))}" if sample else name


def _outside(levels: Tensor) -> float:
    return levels[~((levels >= 0) & (levels <= 1))].flatten()[0].item()
