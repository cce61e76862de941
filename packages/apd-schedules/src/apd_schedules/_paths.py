"""Paths and their combinators. A path is a function of ``s``, and a combinator returns one."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ._noise import Path


def synchronous(tokens: int) -> Path:
    """All tokens share one level, ``s``: ordinary diffusion."""
    if tokens < 1:
        raise ValueError(f"a path needs at least one token, got {tokens}")

    def path(s: Float[Tensor, "*s"]) -> Float[Tensor, "*s n 1"]:
        return s[..., None, None].expand(*s.shape, tokens, 1)

    return path


def staggered(turn: Int[Tensor, " n"], width: float = 0.25) -> Path:
    """Tokens start one turn after another, and each takes the fraction ``width`` of the way from noise to clean.

    Args:
        turn: when token i starts: 0 first. Tokens of equal turn go together; every turn from 0 up must be taken.
        width: in (0, 1]. 1 is synchronous; ``1 / turns`` is :func:`sequential`; below that nobody moves between turns.
    """
    turns = _count_turns(turn)
    if not 0 < width <= 1:
        raise ValueError(f"width is the fraction of the path that a token takes, in (0, 1], got {width}")
    rank = turn.double() / max(turns - 1, 1)
    return _ramps(start=1 - (1 - width) * rank, end=(1 - width) * (1 - rank))


def sequential(turn: Int[Tensor, " n"]) -> Path:
    """Autoregression: the tokens of one turn go from noise to clean while all others wait, then the next.

    Args:
        turn: the turn of token i, 0 first. ``torch.arange(n)`` is raster order one by one.
    """
    turns = _count_turns(turn)
    return _ramps(start=1 - turn.double() / turns, end=1 - (turn.double() + 1) / turns)


def hold_clean(path: Path, known: Bool[Tensor, "*batch n e"]) -> Path:
    """Inpainting: known tokens (or elements) stay clean along the whole path.

    Args:
        known: ``(*batch, n, 1)`` for tokens, ``(*batch, n, d)`` for elements. With batch axes each sample has its own
            region, and the path returns ``(*s, *batch, n, e)``.
    """

    def held(s: Float[Tensor, "*s"]) -> Float[Tensor, "*sbatch n e"]:
        levels = path(s)
        own = levels.shape[s.ndim : -2]  # batch axes that the path already has
        lead = (1,) * (known.ndim - 2 - len(own))
        levels = levels.reshape(*s.shape, *lead, *own, *levels.shape[-2:])
        return levels.masked_fill(known.to(s.device), 0)

    return held


def warp(path: Path, fn: Callable[[Tensor], Tensor]) -> Path:
    """The same curve at another speed; ``fn`` is a non-decreasing map of [0, 1] onto itself."""
    for s, end in ((0.0, "clean"), (1.0, "noise")):
        if abs(fn(torch.tensor(s, dtype=torch.float64)).item() - s) > 1e-6:
            raise ValueError(f"a warp must keep the {end} end of the path: fn({s:g}) must be {s:g}")
    return lambda s: path(fn(s))


def _count_turns(turn: Int[Tensor, " n"]) -> int:
    taken = turn.unique()
    if not taken.numel() or not torch.equal(taken, torch.arange(taken.numel()).to(taken)):
        raise ValueError(f"turns must be 0, 1, 2, … with none left out, got {taken.tolist()}")
    return taken.numel()


def _ramps(start: Float[Tensor, " n"], end: Float[Tensor, " n"]) -> Path:
    """Token i falls linearly from 1 at ``s = start[i]`` to 0 at ``s = end[i]``; both values are met exactly."""

    def path(s: Float[Tensor, "*s"]) -> Float[Tensor, "*s n 1"]:
        a, b = start.to(s), end.to(s)
        return (((s[..., None] - b) / (a - b)).clamp(0, 1))[..., None]

    return path
