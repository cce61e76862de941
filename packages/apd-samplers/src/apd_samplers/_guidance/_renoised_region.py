"""Some tokens brought to a noisier level."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from apd_schedules import NoiseMap, NoiseSchedule

from .._checks import check_fits
from .._noise_source import NoiseSource, OncePerState, PerSampleNoise
from .._solvers import renoise


@dataclass(frozen=True, slots=True)
class RenoisedRegion:
    """Brings the tokens of a region from their levels ``s`` to level ``t`` by the exact forward kernel.

    ``z_t = (alpha_t / alpha_s) z_s + sqrt(sigma_t² - (alpha_t / alpha_s)² sigma_s²) n``. A token that is as noisy as
    ``t`` or noisier, and every token outside, stays as it is, bit for bit.

    Args:
        region: the tokens, ``(*batch, n, 1)``; without batch axes it serves every sample. ``(*batch, n, d)`` chooses
            elements, for noise maps that have a level for each.
        level: ``t``, in [0, 1]: 1 is noise.
        schedule: of the level.
        noise: source of ``n``, called at each evaluation. Of :class:`PerSampleNoise`, that of a sample is new where its
            tokens are, so that it does not depend on the batch.

    Raises:
        ValueError: a level outside [0, 1]; when called, a region that does not fit the tokens or the map.
    """

    region: Bool[Tensor, "*batch n e"]
    level: float
    schedule: NoiseSchedule
    noise: NoiseSource
    _noise: NoiseSource = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.level <= 1:
            raise ValueError(f"a level lies in [0, 1], got {self.level}")
        if isinstance(self.noise, PerSampleNoise):
            object.__setattr__(self, "_noise", OncePerState(self.noise))
        else:
            object.__setattr__(self, "_noise", self.noise)

    def __call__(self, z: Float[Tensor, "*batch n d"], noise: NoiseMap) -> tuple[Float[Tensor, "*batch n d"], NoiseMap]:
        """The tokens and their map after it."""
        check_fits("a region", self.region, z)
        if self.region.shape[-1] not in (1, noise.log_snr.shape[-1]):
            raise ValueError("a region of elements needs a noise map of elements: this map has one level a token")
        # In float64, as paths are walked: a token that a path has brought to the level is at it, not an ulp above.
        level = torch.full((), self.level, dtype=torch.float64, device=noise.log_snr.device)
        at_level = self.schedule(level).to(noise.log_snr)
        region = self.region.to(noise.log_snr.device)
        raised = NoiseMap(torch.where(region, noise.log_snr.minimum(at_level), noise.log_snr))
        return renoise(z, noise, raised, self._noise(z)).to(z), raised
