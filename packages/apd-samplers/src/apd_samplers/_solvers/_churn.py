"""Churn: noise on top of a deterministic solver."""

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

from jaxtyping import Float
from torch import Tensor

from apd_schedules import NoiseMap, Posterior

from .._noise_source import NoiseSource, noise_of_step
from ._renoise import renoise
from ._solver import Solver

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Churn(Generic[S]):
    """Steps too far with ``solver`` and back with fresh noise (Karras et al. 2022, arXiv:2206.00364, algorithm 2).

    A step from ``a`` to ``b`` is made from ``a`` to a map ``low`` that is cleaner than ``b`` by the share ``share`` of
    the step in log-SNR, and by log 2 nats at most; then tokens are raised from ``low`` to ``b`` by the exact forward
    kernel, ``z_b = (alpha_b / alpha_low) z + sqrt(sigma_b² - (alpha_b / alpha_low)² sigma_low²) n``. A token that does
    not move is not raised. Log 2 is the published bound: no more new noise than there is already.

    The paper raises before a step and evaluates at the raised level. It is the same chain of operations, cut
    elsewhere: the scheduler's maps are here the raised ones, where ``sample`` evaluates anyway, and ``low`` the
    unraised. So churn costs no evaluation, schedulers choose the next map from the posterior that is used, and no
    level goes above the noise end. The last step too comes back with noise, at the last map's level.

    Solvers of one step (DDIM, Euler, Heun) keep their order. To the history of ``DPMSolverPP2M`` and ``Adams`` fresh
    noise is a kink in every step, which may cost them theirs.

    Args:
        solver: deterministic.
        share: 0 is ``solver`` itself.
        noise: source of ``n``.
    """

    solver: Solver[S]
    share: float
    noise: NoiseSource

    def __post_init__(self) -> None:
        if not 0 <= self.share < math.inf:
            raise ValueError(f"share is the part of a step that is made again as noise, 0 or more, got {self.share}")

    def init(self, z: Float[Tensor, "*batch n d"]) -> S:
        return self.solver.init(z)

    def step(
        self,
        z: Float[Tensor, "*batch n d"],
        posterior: Posterior,
        a: NoiseMap,
        b: NoiseMap,
        state: S,
    ) -> tuple[Float[Tensor, "*batch n d"], S]:
        low = NoiseMap(b.log_snr + (self.share * (b.log_snr - a.log_snr)).clamp(0, math.log(2)))
        z, state = self.solver.step(z, posterior, a, low, state)
        return renoise(z, low, b, noise_of_step(self.noise, z, a, b)), state
