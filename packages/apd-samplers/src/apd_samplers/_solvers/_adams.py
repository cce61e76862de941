"""Adams-Bashforth methods, per token."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from apd_schedules import NoiseMap, Posterior, flow_from_x

Flows = tuple[tuple[Tensor, NoiseMap], ...]
"""The flow's velocities at the maps before and these maps, newest first."""


@dataclass(frozen=True, slots=True)
class Adams:
    """Order 1 to 4 at one evaluation a step: Adams-Bashforth on the rectified flow, with every token's own steps.

    ``u_b = u_a + ∫ P(f) df`` over the token's step from ``f_a`` to ``f_b``, of ``u = z / (alpha + sigma)`` in the
    token's flow level ``f = sigma / (alpha + sigma)``; ``P`` is the polynomial through the last velocities
    ``du / df = epŝ - x̂`` at their levels (Hairer, Nørsett & Wanner 1993, section III.5; of diffusion models Liu et al.
    2022, arXiv:2202.09778, with equal steps, and Zhang & Chen 2022, arXiv:2204.13902).

    Why this variable: ``u`` and its velocity are smooth at both ends and ``f`` stays in (0, 1). In half the log-SNR a
    schedule that is even in ``f`` makes ever longer steps towards its ends, the last ones of log 2 and more however
    fine the walk, and a polynomial through them gains nothing beyond order 2; in ``sigma / alpha`` the velocity has a
    pole at pure noise.

    Order 1 is ``DDIM(0)``. Every token starts at order 1 after rest and gains one a step; it falls back where a step
    is more than ``limit`` times the one before. Such a step costs the square of its length in ``f``: with orders 3
    and 4 it sets the final error, unless the schedule creeps out of pure noise (linear in log-SNR, ends far out).

    Args:
        order: 1 to 4.
        limit: at least 1.
    """

    order: int
    limit: float = 2.0

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise ValueError(f"Adams has orders 1, 2, 3 and 4, got {self.order}")
        if not self.limit >= 1:
            raise ValueError(f"limit is the largest ratio of a step to the one before, at least 1, got {self.limit}")

    def init(self, z: Float[Tensor, "*batch n d"]) -> Flows:
        return ()

    def step(
        self,
        z: Float[Tensor, "*batch n d"],
        posterior: Posterior,
        a: NoiseMap,
        b: NoiseMap,
        state: Flows,
    ) -> tuple[Float[Tensor, "*batch n d"], Flows]:
        known = ((flow_from_x(posterior.mean, z, a), a), *state)
        fall = a.flow_level - b.flow_level
        scale_a, scale_b = a.alpha + a.sigma, b.alpha + b.sigma
        moved = scale_b / scale_a * z - scale_b * fall * _average(known, fall, self.limit)
        return moved, known[: self.order - 1]


def _average(known: Flows, fall: Float[Tensor, "*map n e"], limit: float) -> Float[Tensor, "*batch n d"]:
    """The mean over the coming step of the polynomial through the known velocities, in Newton's form.

    Lengths are in units of the last step: then none is small where it divides, since a step of more than ``limit``
    times the one before, or one after rest, ends the history that its token can use.
    """
    average = known[0][0]
    differences = [average]  # divided differences that end at the oldest velocity taken in so far
    gaps = [older.flow_level - newer.flow_level for (_, newer), (_, older) in pairwise(known)]
    unit = gaps[0].masked_fill(gaps[0] == 0, 1) if gaps else fall
    coming = fall / unit
    usable, after = torch.ones_like(fall, dtype=torch.bool), fall
    back = [torch.zeros_like(fall)]  # how far back each velocity lies
    middle = end = torch.ones_like(fall)  # Newton's basis polynomial, at the middle and the end of the coming step
    for (velocity, _), gap in zip(known[1:], gaps, strict=True):
        ratio = after / gap.masked_fill(gap == 0, 1)
        usable, after = usable & (gap != 0) & (ratio > 0) & (ratio <= limit), gap
        middle, end = middle * (0.5 * coming + back[-1]), end * (coming + back[-1])
        back.append(back[-1] + torch.where(usable, gap / unit, 1))
        newer, differences = differences, [velocity]
        for difference, place in zip(newer, back[-2::-1], strict=True):
            differences.append((difference - differences[-1]) / (back[-1] - place))
        # Simpson's rule, exact up to the third degree; the basis polynomial is 0 at the start of the step
        average = average + torch.where(usable, (4 * middle + end) / 6, 0) * differences[-1]
    return average
