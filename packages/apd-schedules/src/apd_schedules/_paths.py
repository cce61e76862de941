"""Paths. A path is a function of ``s``; what makes one path of others is in ``_path_combinators``."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._noise import Path

LOGITS = 40.0
"""Largest shift of a level's logit. Such a token is done, or has not begun, to 4e-18 for most of the path."""


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


def sliding_window(turn: Int[Tensor, " n"], active: int | float) -> Path:
    """A window of ``active`` turns slides over the tokens: its first turn is nearly clean, its last nearly noise.

    Rolling diffusion (Ruhe et al. 2024, arXiv:2402.09470), the pyramid of Diffusion Forcing (Chen et al. 2024,
    arXiv:2407.01392). It is :func:`staggered` with the width at which that many turns move at once, fewer at the two
    ends of the path.

    Args:
        turn: when token i enters the window: 0 first. Tokens of equal turn go together; none may be left out.
        active: at least 1, which is :func:`sequential`; the larger, the nearer to :func:`synchronous`.
    """
    turns = _count_turns(turn)
    if not 1 <= active < math.inf:
        raise ValueError(f"a window must hold at least one turn and finitely many, got active={active}")
    return staggered(turn, active / (turns - 1 + active))


def logit_shift(offset: Float[Tensor, "*batch n e"], scale: int | float = 1.0) -> Path:
    """Every token on its own side of the mean: ``level = sigmoid(logit(s) + scale * offset)``.

    On :class:`RectifiedFlow` of infinite ends this moves the log-SNR of a token by ``-2 * scale * offset`` nats, for
    the whole of the path. Offsets may be random: the path is then one of a family, drawn before it is followed.

    Args:
        offset: in logits of the level, within ±40 when multiplied by ``scale``. Positive is noisier, which is later.
            With batch axes each sample has its own.
        scale: 0 is :func:`synchronous`.
    """
    shift = scale * offset
    if not (shift.abs() <= LOGITS).all():
        worst = shift.abs().nan_to_num(nan=math.inf).max().item()
        raise ValueError(
            f"scale * offset must be within ±{LOGITS:g} and not NaN, got scale={scale:g} and up to ±{worst:g}"
        )

    def path(s: Float[Tensor, "*s"]) -> Float[Tensor, "*sbatch n e"]:
        at, by = s.reshape(*s.shape, *(1 for _ in shift.shape)), shift.to(s)
        # Every operation is monotone, and so is its rounding: no level runs back, not by the last digit. At s = 0
        # the level is exact too, but its derivative would be 0 times infinity.
        odds = (1 - at) / torch.where(at > 0, at, 1) * (-by).exp()
        return torch.where(at > 0, 1 / (1 + odds), at * by.exp())

    return path


def piecewise_linear(levels: Float[Tensor, "k n e"]) -> Path:
    """Your own plan: the rows of a matrix, joined by straight lines of equal length in ``s``.

    Args:
        levels: at least two rows in the order of generation, ``(k, n, e)``: all noise (1) in the first, all clean (0)
            in the last, and no token noisier than in the row before.
    """
    rows = _checked(levels).flip(0).double()
    pieces = len(rows) - 1

    def path(s: Float[Tensor, "*s"]) -> Float[Tensor, "*s n e"]:
        at = s * pieces
        piece = at.detach().floor().clamp(0, pieces - 1)
        own, share = rows.to(s), (at - piece)[..., None, None]
        low, high = own[piece.long()], own[piece.long() + 1]
        return low + (high - low) * share  # and not a mean of two: a token at rest rests to the last digit

    return path


def _count_turns(turn: Int[Tensor, " n"]) -> int:
    taken = turn.unique()
    if not taken.numel() or not torch.equal(taken, torch.arange(taken.numel()).to(taken)):
        raise ValueError(f"turns must be 0, 1, 2, … with none left out, got {taken.tolist()}")
    return taken.numel()


def _checked(levels: Float[Tensor, "k n e"]) -> Float[Tensor, "k n e"]:
    if levels.ndim != 3 or len(levels) < 2 or not levels.numel():
        raise ValueError(f"a plan is a matrix (rows, tokens, 1 or elements) of two rows or more, got {levels.shape}")
    inside = (levels >= 0) & (levels <= 1)  # false for NaN
    _refuse(levels, ~inside, "a level must be in [0, 1]")
    ends = torch.zeros_like(inside)
    ends[0], ends[-1] = levels[0] != 1, levels[-1] != 0
    _refuse(levels, ends, "a plan must begin with all noise (1) in its first row and end all clean (0) in its last")
    back = torch.zeros_like(inside)
    back[1:] = levels.diff(dim=0) > 0
    _refuse(levels, back, "a level must not be above that of the row before")
    return levels


def _refuse(levels: Float[Tensor, "k n e"], bad: Tensor, rule: str) -> None:
    if bad.any():
        row, token, element = bad.nonzero()[0].tolist()
        which = f"element {element} of token {token}" if levels.shape[-1] > 1 else f"token {token}"
        before = f" after {levels[row - 1, token, element]:g}" if row else ""
        raise ValueError(f"{rule}, but row {row} has {which} at {levels[row, token, element]:g}{before}")


def _ramps(start: Float[Tensor, " n"], end: Float[Tensor, " n"]) -> Path:
    """Token i falls linearly from 1 at ``s = start[i]`` to 0 at ``s = end[i]``; both values are met exactly."""

    def path(s: Float[Tensor, "*s"]) -> Float[Tensor, "*s n 1"]:
        a, b = start.to(s), end.to(s)
        return (((s[..., None] - b) / (a - b)).clamp(0, 1))[..., None]

    return path
