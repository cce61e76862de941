"""What a network is told of a noise level, what it is shown, and what its output means.

The library's own convention is ``flow``. The others are those that public weights were trained with, so that such a
network is a :class:`apd_schedules.Denoiser` like any other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from apd_schedules import NoiseMap, x_from_eps, x_from_flow

ConventionName = Literal["flow", "dit", "diffusers", "sit"]


@dataclass(frozen=True, slots=True)
class Convention:
    """One way to ask a network. It is pickled by its name.

    Args:
        name: in :data:`CONVENTIONS`.
        frequencies: number of sine and of cosine features of the clock.
        first_rate, last_rate: of their angles, in radians a unit of the clock; equal ratios between.
        clock: from log-SNR to the number that the network is told.
        enter: from noisy tokens to what the network is shown; given the standard deviation of the clean ones.
        mean: from its output, the noisy tokens and their map to the clean tokens.
        log_gain: log of ``|d mean / d output|``.
    """

    name: str
    frequencies: int
    first_rate: float
    last_rate: float
    clock: Callable[[Float[Tensor, "*s"]], Float[Tensor, "*s"]]
    enter: Callable[[Float[Tensor, "*batch n d"], NoiseMap, float], Float[Tensor, "*batch n d"]]
    mean: Callable[[Float[Tensor, "*batch n d"], Float[Tensor, "*batch n d"], NoiseMap], Float[Tensor, "*batch n d"]]
    log_gain: Callable[[NoiseMap], Float[Tensor, "*batch n e"]]

    def __reduce__(self) -> tuple[Callable[[str], "Convention"], tuple[str]]:
        return _named, (self.name,)


def _named(name: str) -> Convention:
    return CONVENTIONS[name]


def _ddpm_log_snr(device: torch.device) -> Float[Tensor, " t"]:
    """Log-SNR after each of the 1,000 steps of DDPM (Ho et al. 2020, arXiv:2006.11239), falling."""
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64, device=device)
    log_alpha_squared = (-beta).log1p().cumsum(0)
    return log_alpha_squared - (-log_alpha_squared.expm1()).log()


def ddpm_timestep(log_snr: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """The timestep, 0 to 999, at which DDPM with linear betas has this log-SNR; linear in log-SNR between two."""
    noisy = -_ddpm_log_snr(log_snr.device)
    place = -log_snr.detach().double().clamp(-noisy[-1], -noisy[0])
    after = torch.searchsorted(noisy, place.contiguous()).clamp(1, len(noisy) - 1)
    low, high = noisy[after - 1], noisy[after]
    here = -log_snr.double().clamp(-noisy[-1], -noisy[0])
    return (after - 1 + (here - low) / (high - low)).to(log_snr.dtype)


def _flow_clock(log_snr: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    return NoiseMap(log_snr[..., None, None]).flow_level[..., 0, 0]


def _unit_variance(z: Float[Tensor, "*batch n d"], noise: NoiseMap, data_std: float) -> Float[Tensor, "*batch n d"]:
    """Every token enters with unit variance, whatever its level."""
    return z * (noise.alpha.square() * data_std**2 + noise.sigma.square()).rsqrt()


def _log_flow_level(noise: NoiseMap) -> Float[Tensor, "*batch n e"]:
    return torch.nn.functional.logsigmoid(-0.5 * noise.log_snr)


def _eps(name: str, last_rate: float) -> Convention:
    as_it_is = lambda z, noise, data_std: z.to(noise.log_snr)  # in float32 at least
    log_gain = lambda noise: -0.5 * noise.log_snr
    return Convention(name, 128, 1.0, last_rate, ddpm_timestep, as_it_is, x_from_eps, log_gain)


CONVENTIONS: dict[str, Convention] = {
    # The level of rectified flow, tokens of unit variance, the velocity of the flow.
    "flow": Convention("flow", 64, 1.0, 1000.0, _flow_clock, _unit_variance, x_from_flow, _log_flow_level),
    # DiT (Peebles & Xie 2023, arXiv:2212.09748): timesteps of DDPM, tokens as they are, the noise.
    "dit": _eps("dit", 10_000 ** (-127 / 128)),
    # The same in diffusers, whose last frequency is 10⁻⁴ itself.
    "diffusers": _eps("diffusers", 1e-4),
    # SiT (Ma et al. 2024, arXiv:2401.08740): time 1 is clean, tokens at the flow's scale, its velocity.
    "sit": Convention(
        "sit",
        128,
        1.0,
        10_000 ** (-127 / 128),
        lambda log_snr: _flow_clock(-log_snr),
        lambda z, noise, data_std: z / (noise.alpha + noise.sigma),
        x_from_flow,
        _log_flow_level,
    ),
}
