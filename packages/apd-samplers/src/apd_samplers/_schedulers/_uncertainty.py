"""How wrong each token's prediction is expected to be: what adaptive schedulers go by."""

from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from apd_schedules import NoiseMap, Posterior

U = TypeVar("U")
Error = Float[Tensor, "*batch n"]
"""Log of the expected squared error of a token's mean, per element."""


@runtime_checkable
class Uncertainty(Protocol[U]):
    """From the posterior at a map to the log of each token's expected squared error. State is passed, never kept."""

    def init(self, z: Float[Tensor, "*batch n d"]) -> U: ...

    def __call__(self, noise: NoiseMap, posterior: Posterior, state: U) -> tuple[Error, U]: ...


@dataclass(frozen=True, slots=True)
class Predicted:
    """What the model itself says, ``Posterior.log_var``: from an error head, or exact in the oracles."""

    def init(self, z: Float[Tensor, "*batch n d"]) -> None:
        return None

    def __call__(self, noise: NoiseMap, posterior: Posterior, state: None) -> tuple[Error, None]:
        if posterior.log_var is None:
            raise ValueError(
                "this denoiser does not predict its error (Posterior.log_var is None): use one that does, or an "
                "uncertainty that needs no training, such as Changing()"
            )
        return posterior.log_var, None
