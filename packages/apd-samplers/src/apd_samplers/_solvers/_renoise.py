"""Noise put back: the forward process, as a solver for tokens that go up."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from apd_schedules import NoiseMap, Posterior

from .._noise_source import NoiseSource, noise_of_step
from ._solver import Solver

S = TypeVar("S")


def renoise(
    z: Float[Tensor, "*batch n d"], low: NoiseMap, b: NoiseMap, eps: Float[Tensor, "*batch n d"]
) -> Float[Tensor, "*batch n d"]:
    """Tokens at map ``low``, raised to the noisier ``b`` by the exact forward kernel.

    ``z_b = (alpha_b / alpha_low) z + sqrt(sigma_b² - (alpha_b / alpha_low)² sigma_low²) eps``. A token whose level is
    the same in both maps comes back unchanged to the bit.
    """
    # sigma_b² - (alpha_b / alpha_low)² sigma_low² = sigma_b² (1 - SNR_b / SNR_low): exactly 0 where b is low
    spread = b.sigma * (-torch.expm1(b.log_snr - low.log_snr)).sqrt()
    return b.alpha / low.alpha * z + spread * eps


@dataclass(frozen=True, slots=True)
class Renoise(Generic[S]):
    """Steps as ``solver`` does, and raises the tokens whose next map is noisier by the exact forward kernel.

    For schedulers that send tokens back up (:class:`Restarts`). What a token was is forgotten by as much as its level
    rises, so the law of all tokens at the map reached is right where it was right before. ``solver`` is shown a map in
    which the raised tokens rest, and so starts their history anew.

    Args:
        solver: of the way down.
        noise: source of the fresh noise; a stream of :class:`PerSampleNoise` rests where no token of its sample rises.
    """

    solver: Solver[S]
    noise: NoiseSource

    @property
    def goes_up(self) -> bool:
        """Tokens may be sent to noisier maps."""
        return True

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
        low = NoiseMap(torch.maximum(a.log_snr, b.log_snr))
        z, state = self.solver.step(z, posterior, a, low, state)
        return renoise(z, low, b, noise_of_step(self.noise, z, low, b)), state
