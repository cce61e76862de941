"""The generation loop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from apd_schedules import Denoiser, NoiseMap

from ._schedulers import InferenceScheduler
from ._solvers import Solver

S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Sampled:
    """What generation gives and what it cost.

    Args:
        tokens: the tokens at the last map, ``(*batch, n, d)``.
        noise: that map.
        evaluations: network evaluations of each sample; guidance and the solver's own are counted.
        token_evaluations: tokens that went through the network, for each sample.
    """

    tokens: Float[Tensor, "*batch n d"]
    noise: NoiseMap
    evaluations: int
    token_evaluations: int


@torch.no_grad()
def sample(
    denoise: Denoiser,
    solver: Solver[S],
    scheduler: InferenceScheduler[R],
    z: Float[Tensor, "*batch n d"],
    *,
    on_step: Callable[[int, NoiseMap, Tensor], None] | None = None,
    **cond: Any,
) -> Sampled:
    """Carries ``z`` along the scheduler's maps.

    Args:
        denoise: the model, guided or not.
        z: tokens at the scheduler's first map: noise, and the data itself where a token is known. Tokens that no map
            moves come back equal to the bit.
        on_step: called after each step with its number from 1, the map reached and the tokens, for progress or films.
        cond: conditions for the denoiser.

    Raises:
        ValueError: a solver that asks the model itself was given other conditions.
    """
    own = getattr(solver, "cond", None)
    if own is not None and own.keys() != cond.keys():
        raise ValueError(
            f"the solver's own evaluations have the conditions {sorted(own)}, sample's have {sorted(cond)}: say the "
            "same to both, as in sample(model, Heun(model, {'label': label}), …, label=label)"
        )
    noise, planned = scheduler.init(z)
    state = solver.init(z)
    evaluations = 0
    for step in range(scheduler.max_steps):
        posterior = denoise(z, noise, **cond)
        evaluations += posterior.evaluations
        target, planned = scheduler.next(noise, posterior, planned)
        z, state = solver.step(z, posterior, noise, target, state)
        noise = target
        if on_step is not None:
            on_step(step + 1, noise, z)
    evaluations += getattr(state, "evaluations", 0)
    return Sampled(z, noise, evaluations, evaluations * z.shape[-2])
