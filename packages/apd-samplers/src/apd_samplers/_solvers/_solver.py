"""What a solver is."""

from typing import Any, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from apd_schedules import NoiseMap, Posterior

S = TypeVar("S")


@runtime_checkable
class Solver(Protocol[S]):
    """Moves tokens from map ``a`` to map ``b``, given the posterior at ``a``. State is passed, never kept.

    A token whose level is the same in both maps comes back unchanged to the bit.

    A solver around another holds it as ``solver``. One that can take tokens to noisier maps says ``goes_up``.

    A solver that asks the network itself has a state with an attribute ``evaluations``: how many it has made so far,
    each counted as its posterior says. ``sample`` adds them to its own. So it does with ``token_evaluations``, without
    which they are all tokens at each evaluation.
    """

    def init(self, z: Float[Tensor, "*batch n d"]) -> S: ...

    def step(
        self, z: Float[Tensor, "*batch n d"], posterior: Posterior, a: NoiseMap, b: NoiseMap, state: S
    ) -> tuple[Float[Tensor, "*batch n d"], S]: ...


def of_chain(solver: Any, name: str, default: Any = None) -> Any:
    """An attribute of a solver or, where it has none of that name, of the one that it wraps."""
    while solver is not None:
        if hasattr(solver, name):
            return getattr(solver, name)
        solver = getattr(solver, "solver", None)
    return default
