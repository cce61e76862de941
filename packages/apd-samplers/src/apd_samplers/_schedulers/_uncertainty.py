"""How wrong each token's prediction is expected to be: what adaptive schedulers go by."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from apd_schedules import NoiseMap, Posterior

from .._noise_source import NoiseSource

U = TypeVar("U")
Error = Float[Tensor, "*batch n"]
"""Log of the expected squared error of a token's mean, per element."""


@runtime_checkable
class Uncertainty(Protocol[U]):
    """From the posterior at a map to the log of each token's expected squared error. State is passed, never kept.

    A token's error may depend on guesses of that token only. Where it depends on the present one alone, if on any, the
    uncertainty says so by a true attribute ``memoryless``: ``only_moving`` then leaves out more tokens.
    """

    def init(self, z: Float[Tensor, "*batch n d"]) -> U: ...

    def __call__(self, noise: NoiseMap, posterior: Posterior, state: U) -> tuple[Error, U]: ...


def is_memoryless(uncertainty: Uncertainty[Any]) -> bool:
    return getattr(uncertainty, "memoryless", False)


@dataclass(frozen=True, slots=True)
class Predicted:
    """What the model itself says, ``Posterior.log_var``: from an error head, or exact in the oracles."""

    @property
    def memoryless(self) -> bool:
        return True

    def init(self, z: Float[Tensor, "*batch n d"]) -> None:
        return None

    def __call__(self, noise: NoiseMap, posterior: Posterior, state: None) -> tuple[Error, None]:
        if posterior.log_var is None:
            raise ValueError(
                "this denoiser does not predict its error (Posterior.log_var is None): use one that does, or an "
                "uncertainty that needs no training, such as Changing()"
            )
        return posterior.log_var, None


class Seen(NamedTuple):
    """Args:
    mean: the guess before; none at first.
    snr: of the tokens then, float64.
    error: expected squared error then, float64.
    """

    mean: Float[Tensor, "*batch n d"] | None
    snr: Float[Tensor, "*batch n"]
    error: Float[Tensor, "*batch n"]


@dataclass(frozen=True, slots=True)
class Changing:
    """What the change of the guess from step to step tells, for models that do not predict their error.

    A posterior mean is a martingale: while a token's SNR grows by ``g`` it changes by ``D² = v - v'`` in the mean
    square, and a normal variable's variance falls from ``v`` to ``v' = v / (1 + v g)``. So ``v`` solves
    ``v² g / (1 + v g) = D²``. The new estimate is the geometric mean, weighted, of the ``v'`` that was expected and the
    one seen. A token at rest falls by the ``D²`` that its neighbours' moves make.

    The martingale is that of ancestral sampling. Deterministic solvers change their guess more smoothly, and the
    estimate is then too small, for all tokens alike.

    Args:
        weight: of what is seen, in (0, 1]; few elements a token want less.
        variance: of the data, per element: the error before anything is known.
    """

    weight: float = 0.5
    variance: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ValueError(f"weight lies in (0, 1], got {self.weight}")
        if not 0 < self.variance < math.inf:
            raise ValueError(f"variance must be positive and finite, got {self.variance}")

    def init(self, z: Float[Tensor, "*batch n d"]) -> Seen:
        zero = torch.zeros(z.shape[:-1], dtype=torch.float64, device=z.device)
        return Seen(None, zero, zero + self.variance)

    def __call__(self, noise: NoiseMap, posterior: Posterior, state: Seen) -> tuple[Error, Seen]:
        snr = noise.log_snr.double().exp().mean(-1).expand_as(state.snr)
        gain = (snr - state.snr).clamp(min=0)
        error = state.error / (1 + state.error * gain)
        if state.mean is not None:
            change = (posterior.mean - state.mean).double().square().mean(-1)
            # v² g - D² g v - D² = 0; at rest g = 0 and the root is no number that is used
            g = gain.clamp(min=1e-30)
            root = (change * g + ((change * g).square() + 4 * g * change).sqrt()) / (2 * g)
            found = (root / (1 + root * g)).clamp(min=1e-12)
            moved = error.log().lerp(found.log(), self.weight).exp()
            rested = torch.maximum(state.error - change, 0.1 * state.error)
            error = torch.where(gain > 0, moved, rested)
        return error.log(), Seen(posterior.mean, snr, error)


@dataclass(frozen=True, slots=True)
class AtRandom:
    """A control: variances that say nothing, drawn once for each token and falling with its own SNR alone.

    With :class:`MostCertainFirst` it makes a random order.

    Args:
        noise: source of the draws.
        spread: standard deviation of the log variances.
    """

    noise: NoiseSource
    spread: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.spread < math.inf:
            raise ValueError(f"spread must not be negative, got {self.spread}")

    @property
    def memoryless(self) -> bool:
        return True

    def init(self, z: Float[Tensor, "*batch n d"]) -> Error:
        return self.spread * self.noise(z)[..., 0]

    def __call__(self, noise: NoiseMap, posterior: Posterior, state: Error) -> tuple[Error, Error]:
        snr = noise.log_snr.mean(-1).exp()
        return state - torch.log1p(state.exp() * snr), state
