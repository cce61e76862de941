"""DPM-Solver++(2M), per token."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from apd_schedules import NoiseMap, Posterior

from ._ddim import DDIM

Guess = tuple[Tensor, NoiseMap]
"""``x̂`` at the map before, and that map."""


@dataclass(frozen=True, slots=True)
class DPMSolverPP2M:
    """Second order, one evaluation a step (Lu et al. 2022, arXiv:2211.01095, algorithm 2).

    ``z_b = (sigma_b / sigma_a) z - alpha_b expm1(-h) D`` with ``D = x̂ + (x̂ - x̂_before) h / (2 h_before)`` and ``h`` the
    step of *half* the log-SNR, each of one token. This is DDIM with ``D`` for ``x̂``.

    ``D = x̂`` where there is no slope to go by: in a token's first step after rest, and where its step is more than
    ``limit`` times the one before. There ``x̂`` has moved for other reasons than the token's own step (it started
    between two maps, say), or the step jumps to nearly clean and the slope would carry too far. Some such steps leave
    the order at two.

    Args:
        limit: at least 1; ``math.inf`` is the published method at every step.
    """

    limit: float = 2.0

    def __post_init__(self) -> None:
        if not self.limit >= 1:
            raise ValueError(f"limit is the largest ratio of a step to the one before, at least 1, got {self.limit}")

    def init(self, z: Float[Tensor, "*batch n d"]) -> Guess | None:
        return None

    def step(
        self,
        z: Float[Tensor, "*batch n d"],
        posterior: Posterior,
        a: NoiseMap,
        b: NoiseMap,
        state: Guess | None,
    ) -> tuple[Float[Tensor, "*batch n d"], Guess | None]:
        guess = posterior.mean
        if state is not None:
            mean_before, before = state
            step_before = a.log_snr - before.log_snr  # twice h_before
            rested = step_before == 0
            ratio = (b.log_snr - a.log_snr) / step_before.masked_fill(rested, 1)
            known = ~rested & (ratio > 0) & (ratio <= self.limit)
            guess = guess + torch.where(known, 0.5 * ratio, 0) * (guess - mean_before)
        moved, _ = DDIM().step(z, Posterior(guess), a, b, None)
        return moved, (posterior.mean, a)
