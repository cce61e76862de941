"""Known tokens put back after every step."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from apd_schedules import NoiseMap, Posterior, corrupt

from .._noise_source import NoiseSource
from ._solver import Solver

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Overwrite(Generic[S]):
    """Steps as ``solver`` does; then what is known of ``x`` is put back, at the noise level reached.

    The replacement method (Song et al. 2021, arXiv:2011.13456, appendix I): the step that makes inpainting of a model
    which takes one level for all tokens. It does not sample the conditional law, since the unknown tokens are guessed
    from known ones that are noisier than they need be. What is known does not rest: it has new noise after each step.

    Args:
        solver: any.
        x: clean tokens; read where known.
        known: tokens ``(*batch, n, 1)`` or elements ``(*batch, n, d)``.
        noise: source of the noise that known tokens are given, new at each step as published; one that returns the
            same noise each time takes them along one straight way.
    """

    solver: Solver[S]
    x: Float[Tensor, "*batch n d"]
    known: Bool[Tensor, "*known n e"]
    noise: NoiseSource

    def init(self, z: Float[Tensor, "*batch n d"]) -> S:
        return self.solver.init(z)

    def step(
        self,
        z: Float[Tensor, "*batch n d"],
        posterior: Posterior,
        a: NoiseMap,
        b: NoiseMap,
        state: S,
    ) -> tuple[Float[Tensor, "*batch n d"], S]:
        z, state = self.solver.step(z, posterior, a, b, state)
        return self.put(z, b), state

    def put(self, z: Float[Tensor, "*batch n d"], at: NoiseMap) -> Float[Tensor, "*batch n d"]:
        """``z`` with what is known put in at the levels of a map."""
        return torch.where(self.known, corrupt(self.x, at, self.noise(z)), z)
