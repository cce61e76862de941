"""Heun's method, per token."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from apd_schedules import Denoiser, NoiseMap, Posterior

from .._checks import check_mean
from .._cost import token_evaluations
from ._ddim import DDIM


class HeunState(NamedTuple):
    """Args:
    evaluations: network evaluations made by second stages so far.
    token_evaluations: of single tokens, in the sample that took the most.
    dtype: of the tokens, as the model sees them.
    """

    evaluations: int
    token_evaluations: int
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Heun:
    """Second order, two evaluations a step: the trapezoidal rule of Karras et al. 2022 (arXiv:2206.00364, algorithm 1).

    ``y_b = y_a + (rho_b - rho_a) (epŝ_a + epŝ_b) / 2`` of ``y = z / alpha`` in ``rho = sigma / alpha``, where ``epŝ_b``
    is the guess at map ``b`` at the end of an Euler step in ``rho``, which is DDIM's.

    A token whose ``rho`` changes by more than the factor ``limit`` takes the Euler step alone. Karras et al. do so in
    the last step, where ``rho`` becomes 0; here a schedule's last step, and its first, are merely long. Near pure noise
    ``epŝ`` goes like ``1 / rho``, and beyond a factor of 5 the trapezoid integrates that worse than Euler does. One
    such step at each end of a token's way leaves the order at two. The second evaluation is made all the same: whether
    any token needs it is known on the device only.

    Args:
        denoise: the model, guided or not: the one that ``sample`` is given.
        cond: its conditions, as ``sample`` is given them by name.
        limit: at least 1; ``math.inf`` is the published method at every step.
    """

    denoise: Denoiser
    cond: Mapping[str, Any] = field(default_factory=dict)
    limit: float = 5.0

    def __post_init__(self) -> None:
        if not self.limit >= 1:
            raise ValueError(f"limit is the largest change of sigma / alpha, as a factor, at least 1: got {self.limit}")

    def init(self, z: Float[Tensor, "*batch n d"]) -> HeunState:
        return HeunState(0, 0, z.dtype)

    def step(
        self,
        z: Float[Tensor, "*batch n d"],
        posterior: Posterior,
        a: NoiseMap,
        b: NoiseMap,
        state: HeunState,
    ) -> tuple[Float[Tensor, "*batch n d"], HeunState]:
        euler, _ = DDIM().step(z, posterior, a, b, None)
        second = self.denoise(euler.to(state.dtype), b, **self.cond)
        check_mean(second, euler)
        # The Euler point is alpha_b x̂_a + sigma_b epŝ_a, so epŝ_b - epŝ_a is exactly (x̂_a - x̂_b) alpha_b / sigma_b:
        # no difference of large z / alpha near noise, no division by a small sigma near clean.
        h = 0.5 * (b.log_snr - a.log_snr)
        gain = torch.where(h.abs() <= math.log(self.limit), 0.5 * b.alpha * torch.expm1(h), 0)
        evaluations = state.evaluations + second.evaluations
        state = HeunState(evaluations, state.token_evaluations + token_evaluations(second), state.dtype)
        slope = torch.where(gain == 0, 0, second.mean - posterior.mean)  # where it is not used it need not be finite
        return euler + gain * slope, state
