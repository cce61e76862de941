"""Euler's method, per token."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from apd_schedules import NoiseMap, Posterior


@dataclass(frozen=True, slots=True)
class Euler:
    """First order: Euler on the probability flow in each token's angle, ``dz / dangle = v``.

    ``z_b = z_a + (angle_b - angle_a) v̂`` with ``angle = atan(sigma / alpha)`` and ``v̂ = alpha epŝ - sigma x̂``: one
    step of the ODE of Salimans & Ho 2022 (arXiv:2202.00512, appendix D), the "TrigFlow" of Lu & Song 2024
    (arXiv:2410.11081). The angle lies in (0, pi / 2), so steps stay bounded at both ends of any schedule.

    ``DDIM(0)`` takes the same step along the circle, ``cos(angle_b - angle_a) z + sin(angle_b - angle_a) v̂``. It is
    also Euler in ``sigma / alpha`` (of ``z / alpha``) and in the time of rectified flow (of ``z / (alpha + sigma)``):
    all straight lines between ``x̂`` and ``epŝ`` are the same step. This one follows the tangent, and does not stay on
    ``alpha_b x̂ + sigma_b epŝ``; it is the plain baseline to compare solvers with.
    """

    def init(self, z: Float[Tensor, "*batch n d"]) -> None:
        return None

    def step(
        self,
        z: Float[Tensor, "*batch n d"],
        posterior: Posterior,
        a: NoiseMap,
        b: NoiseMap,
        state: None,
    ) -> tuple[Float[Tensor, "*batch n d"], None]:
        # The angle between two directions, from their cross and inner product; the cross product is written through
        # expm1, so that a small turn keeps its digits and a token that does not move turns by exactly 0.
        cross = a.sigma * b.alpha * torch.expm1(0.5 * (a.log_snr - b.log_snr))
        # Not by atan2, which on a CPU rounds differently at the end of a tensor; the turn is less than a right angle.
        turn = (cross / (a.alpha * b.alpha + a.sigma * b.sigma)).atan()
        return z + turn / a.sigma * (a.alpha * z - posterior.mean), None
