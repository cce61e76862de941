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
        token_evaluations: tokens that went through the network for it, in the sample that took the most; ``None`` is
            all tokens at each evaluation.
    """

    mean: Float[Tensor, "*batch n d"]
    log_var: Float[Tensor, "*batch n"] | None = None
    evaluations: int = 1
    token_evaluations: int | None = None


@runtime_checkable
class Denoiser(Protocol):
    """Any callable from noisy tokens, their noise map and, by name, conditions to a :class:`Posterior`.

    One without conditions, ``(z, noise)``, is a denoiser too: to a type checker ``*args`` and ``**cond`` of ``Any``
    stand for any further parameters. No conditions are passed by position.

    One that can leave out tokens takes the condition ``moving``: true for tokens whose guess will be used, ``(*batch,
    n)``, or ``None`` where that is not known. What it returns for the others is not used but must be finite: the last
    guess it made, say. Samplers give it that condition on request (``only_moving``).
    """

    def __call__(self, z: Float[Tensor, "*batch n d"], noise: NoiseMap, /, *args: Any, **cond: Any) -> Posterior: ...
