"""Uncertainties that a test can foresee, and what is asked of a run."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from apd_schedules import NoiseMap, Posterior


@dataclass
class Fixed:
    """The same numbers at every map, ``(n,)`` or ``(*batch, n)``."""

    error: Tensor

    def init(self, z: Tensor) -> None:
        return None

    def __call__(self, noise: NoiseMap, posterior: Posterior, state: None) -> tuple[Tensor, None]:
        return self.error.expand(posterior.mean.shape[:-1]), None


class Turning:
    """At the k-th evaluation, from 0, the least uncertain token is ``k % n``, then those after it."""

    def init(self, z: Tensor) -> int:
        return 0

    def __call__(self, noise: NoiseMap, posterior: Posterior, state: int) -> tuple[Tensor, int]:
        n = posterior.mean.shape[-2]
        return ((torch.arange(n) - state) % n).double().expand(posterior.mean.shape[:-1]), state + 1


def halves(z: Tensor, noise: NoiseMap) -> Posterior:
    return Posterior(0.5 * z)


def rows_apart(z: Tensor, noise: NoiseMap) -> Posterior:
    """Every token sees its neighbour and says how sure it is; exact operations, the same for one row and for many."""
    mean = 0.5 * z - 0.25 * z.roll(1, -2)
    return Posterior(mean, (z * z)[..., 0] - z.roll(2, -2)[..., 0])


def first_move(trace: NoiseMap) -> Tensor:
    """The step in which each token first moves, ``(*batch, n)``; the number of steps for one that never does."""
    moved = (trace.log_snr.diff(dim=0) != 0).any(-1)
    return torch.cat([moved, torch.ones(1, *moved.shape[1:], dtype=torch.bool)]).long().argmax(0)


def without_numbers(state: Any) -> Any:
    """A named tuple with its tensors on the meta device: what reads their numbers, or mixes devices, fails."""
    return type(state)(*(value.to("meta") if isinstance(value, Tensor) else value for value in state))
