"""What a denoiser is, and what it returns."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ._noise import NoiseMap


@dataclass(frozen=True, slots=True)
class Posterior:
    """``p(x | z)`` summarised.

    Args:
        mean: expected clean tokens, shape ``(*batch, n, d)``.
        log_var: log of the expected squared error of ``mean`` per token, where the model predicts it.
        evaluations: network evaluations that it took; guidance that asks a network twice says 2.
    """

    mean: Float[Tensor, "*batch n d"]
    log_var: Float[Tensor, "*batch n"] | None = None
    evaluations: int = 1


@runtime_checkable
class Denoiser(Protocol):
    """Any callable from noisy tokens, their noise map and, by name, conditions to a :class:`Posterior`.

    One without conditions, ``(z, noise)``, is a denoiser too: to a type checker ``*args`` and ``**cond`` of ``Any``
    stand for any further parameters. No conditions are passed by position.
    """

    def __call__(self, z: Float[Tensor, "*batch n d"], noise: NoiseMap, /, *args: Any, **cond: Any) -> Posterior: ...
