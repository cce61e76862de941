"""Averages of any width as sums of averages that were kept: the least-squares fit of their profiles."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._averages import power_of_width


@dataclass(frozen=True, slots=True)
class Profile:
    """How an average weighs the past: ``p(t) = (gamma + 1) t^gamma / steps^(gamma + 1)`` for ``t`` in [0, steps].

    Step ``k`` of training has the weight of ``p`` between ``k - 1`` and ``k``; that is what :class:`Ema` computes, with
    no approximation.

    Args:
        sigma_rel: standard deviation relative to ``steps``; gamma follows from it by :func:`power_of_width`.
        steps: at whose end the average was taken.
    """

    sigma_rel: float
    steps: float


def fit_profile(kept: Sequence[Profile], target: Profile) -> tuple[list[float], float]:
    """Factors of the kept averages whose sum is nearest to the target, and how near that is.

    Minimises the integral of ``(sum_i factor_i p_i - p)²`` (Karras et al. 2024, arXiv:2312.02696, section 3.2) among
    factors of sum 1: weights that did not change come out as they are, which the free minimum misses by several per
    cent where the fit is poor. A profile that was kept is given back with the factor 1.

    Returns:
        the factors, and the norm of the difference relative to the target's.

    Raises:
        ValueError: nothing was kept, or a width is impossible.
    """
    if not kept:
        raise ValueError("there are no averages to fit a profile with: keep one at least")
    if target in kept:
        return [float(profile == target) for profile in kept], 0.0
    scale = np.sqrt(np.diag(_products(kept, kept)))
    norm = _products([target], [target])[0, 0] ** 0.5
    cosines = _products(kept, kept) / np.outer(scale, scale)
    onto = _products(kept, [target])[:, 0] / (scale * norm)
    # In the unit of norms: factor = y norm / scale, and the multiplier of the constraint follows in closed form.
    share = norm / scale
    free, toward = np.linalg.lstsq(cosines, np.stack([onto, share], axis=1), rcond=1e-14)[0].T
    y = free + toward * (1 - share @ free) / (share @ toward)
    squared = y @ cosines @ y - 2 * onto @ y + 1
    return (y * share).tolist(), float(max(squared, 0.0)) ** 0.5


def _products(a: Sequence[Profile], b: Sequence[Profile]) -> NDArray[np.float64]:
    """Integrals of the products of all pairs, in closed form."""
    power, end = _powers(a)[:, None], np.array([float(profile.steps) for profile in a])[:, None]
    other, other_end = _powers(b)[None], np.array([float(profile.steps) for profile in b])[None]
    first, last = np.minimum(end, other_end), np.maximum(end, other_end)
    of_last = np.where(end >= other_end, power, other)
    return (power + 1) * (other + 1) / (power + other + 1) * (first / last) ** of_last / last


def _powers(profiles: Sequence[Profile]) -> NDArray[np.float64]:
    return np.array([power_of_width(profile.sigma_rel) for profile in profiles])
