"""What an inference scheduler is."""

from typing import Any, Protocol, TypeVar, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from apd_schedules import NoiseMap, Posterior

R = TypeVar("R")


@runtime_checkable
class InferenceScheduler(Protocol[R]):
    """Says at which map the tokens start and, from the posterior at each map, which comes next.

    State is passed, never kept. A scheduler that can be done before ``max_steps`` steps also has a method
    ``finished(noise, state) -> bool``: no token will move any more. ``sample`` asks it before every evaluation.

    One that knows before the posterior which guesses it needs also has a method ``moving(noise, state) ->
    Bool[Tensor, "*batch n"] | None``: all tokens that the next step may bring nearer to clean, and those it chooses
    among; ``None`` if it cannot tell at this step. Tokens that only go up, to noise, need no guess. ``sample`` asks it
    where ``only_moving``.
    """

    @property
    def max_steps(self) -> int: ...

    def init(self, z: Float[Tensor, "*batch n d"]) -> tuple[NoiseMap, R]: ...

    def next(self, noise: NoiseMap, posterior: Posterior, state: R) -> tuple[NoiseMap, R]: ...


def moving_of(scheduler: InferenceScheduler[R], noise: NoiseMap, state: R) -> Bool[Tensor, "*batch n"] | None:
    """What the scheduler says of the tokens that the next step moves; ``None`` if it never does."""
    moving: Any = getattr(scheduler, "moving", None)
    return None if moving is None else moving(noise, state)


def moved(a: NoiseMap, b: NoiseMap) -> Bool[Tensor, "*batch n"]:
    """Tokens whose level, or that of an element, differs between two maps."""
    return (a.log_snr != b.log_snr).any(-1)
