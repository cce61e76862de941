"""What an inference scheduler is."""

from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from apd_schedules import NoiseMap, Posterior

R = TypeVar("R")


@runtime_checkable
class InferenceScheduler(Protocol[R]):
    """Says at which map the tokens start and, from the posterior at each map, which comes next.

    State is passed, never kept. A scheduler that can be done before ``max_steps`` steps also has a method
    ``finished(noise, state) -> bool``: no token will move any more. ``sample`` asks it before every evaluation.
    """

    @property
    def max_steps(self) -> int: ...

    def init(self, z: Float[Tensor, "*batch n d"]) -> tuple[NoiseMap, R]: ...

    def next(self, noise: NoiseMap, posterior: Posterior, state: R) -> tuple[NoiseMap, R]: ...
