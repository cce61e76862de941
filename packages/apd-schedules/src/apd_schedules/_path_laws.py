"""Laws of paths on which every token keeps its own distance from a common level.

All follow one recipe: the level of token i is the value at its offset ``U_i`` of a quantile function that rises with
``u`` from 0 to 1. Its velocity then depends on ``u`` and the level alone. ``s = 2 U - 1`` below.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ._offsets import Offsets
from ._path_law import Levels, PathLaw

U = Float[Tensor, " b"]
Drawn = Float[Tensor, "b n e"]


def shared_law(tokens: int) -> PathLaw:
    """All tokens at one level, ``u``: the bound of ordinary diffusion (Kingma et al. 2021, arXiv:2107.00630)."""
    if tokens < 1:
        raise ValueError(f"a law needs at least one token, got {tokens}")

    def at(u: U, offsets: Float[Tensor, "b 0"]) -> Levels:
        level = u[:, None, None].expand(-1, tokens, 1)
        return Levels(level, torch.ones_like(level))

    return PathLaw(lambda batch, generator: torch.zeros(batch, 0, dtype=torch.float64), at)


def quad_law(offsets: Offsets, kappa: float = 1.0, exact: bool = False) -> PathLaw:
    """``t = u + kappa u (1 - u) s``, velocity ``1 + kappa (1 - 2u) s``: controlled mean and spread, smooth in ``u``.

    Args:
        offsets: one a token or element.
        kappa: in [0, 1]; the standard deviation of a level about ``u`` is ``kappa u (1 - u) / sqrt(3)``.
        exact: the mean level of every single map is ``u``, and its standard deviation over the tokens is exactly
            ``k u (1 - u)`` with ``k = min(kappa, 1 / max|ŝ|)``, where ``ŝ`` is ``s`` brought to mean 0 and variance 1.
    """

    def at(u: U, s: Drawn) -> Levels:
        u = u[:, None, None]
        return Levels((u + u * (1 - u) * s).clamp(0, 1), 1 + (1 - 2 * u) * s)

    return PathLaw(_spread(offsets, kappa, exact), at)


def tent_law(offsets: Offsets, kappa: float = 1.0, exact: bool = False) -> PathLaw:
    """``t = u + kappa min(u, 1 - u) s``, velocity ``1 ± kappa s``: straight to a random map and on to noise.

    At ``kappa = 1`` the map halfway is uniform and independent, as AsyncPatch's training maps of one token a patch are.

    Args:
        offsets, exact: as for :func:`quad_law`, with ``min(u, 1 - u)`` for ``u (1 - u)``.
        kappa: in [0, 1]; the standard deviation of a level about ``u`` is ``kappa min(u, 1 - u) / sqrt(3)``.
    """

    def at(u: U, s: Drawn) -> Levels:
        u = u[:, None, None]
        return Levels((u + torch.minimum(u, 1 - u) * s).clamp(0, 1), 1 + torch.where(u < 0.5, s, -s))

    return PathLaw(_spread(offsets, kappa, exact), at)


def logit_shift_law(offsets: Offsets, scale: float = 1.0, clip: float = 3.0) -> PathLaw:
    """``logit t = logit u + scale g`` with ``g`` normal; velocity ``t (1 - t) / (u (1 - u))``.

    With rectified flow it shifts the log-SNR by ``-2 scale g``.

    Args:
        clip: ``g`` is cut at plus and minus this, which bounds the velocity and keeps the bound exact.
    """
    _check_positive(scale=scale, clip=clip)

    def at(u: U, odds: Drawn) -> Levels:
        u = u[:, None, None]
        whole = (1 - u) + u * odds
        return Levels(u * odds / whole, odds / whole.square())

    return PathLaw(lambda batch, generator: (scale * _normal(offsets(batch, generator)).clamp(-clip, clip)).exp(), at)


def window_law(offsets: Offsets, span: float = 1.0) -> PathLaw:
    """``t = clip(v - span U, 0, 1)`` with ``v`` rising at the rate ``R`` that takes all tokens across; velocity ``R``
    while a token moves.

    The noisy-and-clean maps of rolling diffusion (Ruhe et al. 2024, arXiv:2402.09470): tokens wait, move, are done.
    With a schedule linear in log-SNR the tokens on the move keep their distances in log-SNR.

    Args:
        span: between the first and the last start, in units of one token's own crossing; large is one after another.
    """
    _check_positive(span=span)

    def at(u: U, start: Drawn) -> Levels:
        first, last = start.amin((1, 2), keepdim=True), start.amax((1, 2), keepdim=True)
        rate = 1 + last - first
        here = rate * u[:, None, None] - (start - first)
        # At u = 1 the last token has arrived, whatever the sum's rounding.
        level = torch.where(u[:, None, None] < 1, here.clamp(0, 1), 1.0)
        return Levels(level, torch.where((here > 0) & (here < 1), rate, 0.0))

    return PathLaw(lambda batch, generator: span * offsets(batch, generator), at)


def probit_law(offsets: Offsets, share: float = 0.9) -> PathLaw:
    """``t = Phi(sqrt(share) Phi⁻¹(u) + sqrt(1 - share) g)``: every level on its own is exactly uniform.

    Velocity ``sqrt(share) phi(Phi⁻¹(t)) / phi(Phi⁻¹(u))``.

    Args:
        share: of the variance that all tokens have in common, in (3/4, 1]; at 3/4 the velocity's variance is infinite.
    """
    if not 0.75 < share <= 1:
        raise ValueError(f"share lies in (0.75, 1], below which the bound has infinite variance, got {share}")

    def at(u: U, g: Drawn) -> Levels:
        common = _normal(u)[:, None, None]
        own = share**0.5 * common + (1 - share) ** 0.5 * g
        inside = ((u > 0) & (u < 1))[:, None, None]
        velocity = share**0.5 * torch.exp(0.5 * (common.square() - own.square()))
        level = torch.where(inside, torch.special.ndtr(own), u[:, None, None])
        return Levels(level, torch.where(inside, velocity, 1.0))

    return PathLaw(lambda batch, generator: _normal(offsets(batch, generator)), at)


def tilt_law(offsets: Offsets) -> PathLaw:
    """``t`` from the law of largest entropy on [0, 1] with mean ``u``, of density proportional to ``exp(eta t)``.

    As much spread about ``u`` as can be had without preferring the ends: uniform at ``u = 1/2``, exponential near the
    ends. Quantile ``log(1 + U (e^eta - 1)) / eta``, velocity ``(dt/deta) / Var_eta[t]``.
    """

    def at(u: U, p: Drawn) -> Levels:
        inside = ((u > 0) & (u < 1))[:, None, None]
        # exp(eta) is kept from overflowing: means above 1/2 are mirrored.
        mirror = (u > 0.5)[:, None, None]
        p = torch.where(mirror, 1 - p, p)
        eta = _tilt(torch.minimum(u, 1 - u).clamp(1e-12, 0.5))[:, None, None]
        small = eta.abs() < 1e-3
        safe = torch.where(small, -1.0, eta)
        whole = (1 - p) + p * safe.exp()
        log_whole = torch.where(p < 0.5, torch.log1p(p * torch.expm1(safe)), whole.log())  # digits at either end
        level = torch.where(small, p + p * (1 - p) * eta / 2, log_whole / safe)
        slope = (p * safe.exp() / whole - level) / safe
        slope = torch.where(small, p * (1 - p) * (0.5 + (1 - 2 * p) * eta / 3), slope)
        level = torch.where(mirror, 1 - level, level)
        ends = u[:, None, None].expand_as(level)
        return Levels(torch.where(inside, level, ends), torch.where(inside, slope / _tilt_variance(eta), 1.0))

    return PathLaw(offsets, at)


def _tilt(mean: U) -> U:
    """``eta <= 0`` whose density has this mean, ``1 / (1 - e^-eta) - 1 / eta``, by Newton's method."""
    eta = 1 / (1 - mean) - 1 / mean
    for _ in range(20):
        small = eta.abs() < 1e-3
        safe = torch.where(small, -1.0, eta)
        found = torch.where(small, 0.5 + eta / 12, -1 / torch.expm1(-safe) - 1 / safe)
        eta = (eta - (found - mean) / _tilt_variance(eta)).clamp(max=0)
    return eta


def _tilt_variance(eta: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    safe = torch.where(eta.abs() < 1e-2, 1.0, eta)
    exact = safe**-2 - 0.25 * torch.sinh((safe / 2).clamp(-350, 350)) ** -2
    return torch.where(eta.abs() < 1e-2, 1 / 12 - eta.square() / 240, exact)


def _spread(offsets: Offsets, kappa: float, exact: bool) -> "Offsets":
    """Draws of ``kappa s``, or of ``k ŝ``."""
    if not 0 <= kappa <= 1:
        raise ValueError(f"kappa lies in [0, 1], so that no level goes back, got {kappa}")

    def draw(batch: int, generator: torch.Generator | None) -> Drawn:
        s = 2 * offsets(batch, generator) - 1
        if not exact:
            return kappa * s
        s = s - s.mean((1, 2), keepdim=True)
        s = s / s.square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-12)  # a single token has no spread
        return s * (1 / s.abs().amax((1, 2), keepdim=True).clamp(min=1e-12)).clamp(max=kappa)

    return draw


def _normal(u: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    return torch.special.ndtri(u.clamp(2.0**-53, 1 - 2.0**-53))


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, got {value}")
