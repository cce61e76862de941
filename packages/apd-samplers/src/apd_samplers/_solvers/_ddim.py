"""DDIM and ancestral sampling, per token."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from apd_schedules import NoiseMap, Posterior

from .._noise_source import NoiseSource, noise_of_step


@dataclass(frozen=True, slots=True)
class DDIM:
    """First order, from deterministic to ancestral (Song et al. 2021, arXiv:2010.02502, equations 12 and 16).

    ``z_b = alpha_b x̂ + sigma_b sqrt(1 - eta² c) epŝ + eta sigma_b sqrt(c) n`` with ``c = 1 - SNR_a / SNR_b``.

    Args:
        eta: 0 is deterministic, 1 is ancestral sampling (Ho et al. 2020, arXiv:2006.11239).
        noise: source of ``n``; needed where ``eta > 0``.
    """

    eta: float = 0.0
    noise: NoiseSource | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta lies in [0, 1], got {self.eta}")
        if self.eta > 0 and self.noise is None:
            raise ValueError(f"eta={self.eta} draws noise: pass a source, DDIM(eta, noise=PerSampleNoise(seeds))")

    def init(self, z: Float[Tensor, "*batch n d"]) -> None:
        return None

    def step(
        self,
        z: Float[Tensor, "*batch n d"],
        posterior: Posterior,
        a: NoiseMap,
        b: NoiseMap,
        state: None,
    ) -> tuple[Float[Tensor, "*batch n d"], None]:
        # epŝ = (z - alpha_a x̂) / sigma_a is put in, and the factor of x̂ written as a difference that is exactly 0
        # for a token that does not move: the token then comes back as 1 · z + 0 · x̂.
        c = -(self.eta**2) * torch.expm1(a.log_snr - b.log_snr)  # eta² c
        kept = (1 - c).clamp(min=0).sqrt()
        ratio = b.sigma / a.sigma
        gain = torch.expm1(0.5 * (b.log_snr - a.log_snr)) + c / (1 + kept)
        moved = ratio * kept * z + ratio * a.alpha * gain * posterior.mean
        if self.noise is not None and self.eta > 0:
            moved = moved + b.sigma * c.clamp(min=0).sqrt() * noise_of_step(self.noise, z, a, b)
        return moved, None
