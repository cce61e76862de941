"""Known tokens put back after every step."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from apd_schedules import NoiseMap, Posterior, corrupt

from .._noise_source import NoiseSource, noise_of_step
from ._solver import Solver

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Overwrite(Generic[S]):
    """Steps as ``solver`` does; then what is known of ``x`` is put back, at the noise level reached.

    The replacement method (Song et al. 2021, arXiv:2011.13456, appendix I): the step that makes inpainting of a model
    which takes one level for all tokens. It does not sample the conditional law, since the unknown tokens are guessed
    from known ones that are noisier than they need be. What is known does not rest: it has new noise after each step of
    its sample.

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
        before = z
        z, state = self.solver.step(z, posterior, a, b, state)
        put = self._put(z, b, noise_of_step(self.noise, z, a, b))
        # A sample that rests in a step of its batch would not have it alone.
        if max(a.log_snr.ndim, b.log_snr.ndim) > 2:
            put = torch.where((a.log_snr != b.log_snr).flatten(-2).any(-1)[..., None, None], put, before)
        return put, state

    def put(self, z: Float[Tensor, "*batch n d"], at: NoiseMap) -> Float[Tensor, "*batch n d"]:
        """``z`` with what is known put in at the levels of a map."""
        return self._put(z, at, self.noise(z))

    def _put(
        self, z: Float[Tensor, "*batch n d"], at: NoiseMap, noise: Float[Tensor, "*batch n d"]
    ) -> Float[Tensor, "*batch n d"]:
        return torch.where(self.known, corrupt(self.x, at, noise), z)
