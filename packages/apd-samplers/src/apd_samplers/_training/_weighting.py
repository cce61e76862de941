"""How much an error counts at each log-SNR: weights on the squared error of ``x``.

The squared errors of one denoiser in different predictions differ by a factor that depends on the level alone
(Kingma & Gao 2023, arXiv:2303.00848). The functions named after a prediction are that factor for its plain mean squared
error; the others are weights of the literature, brought to the error of ``x``. Weights that also depend on the schedule
are in ``_weighting_levels``.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from apd_schedules import NoiseMap

from .._named import named

Weighting = Callable[[NoiseMap], Float[Tensor, "*batch n e"]]


def x_weighting(noise: NoiseMap) -> Float[Tensor, "*batch n e"]:
    """``|x - x̂|²``: 1."""
    return torch.ones_like(noise.log_snr)


def eps_weighting(noise: NoiseMap) -> Float[Tensor, "*batch n e"]:
    """``|eps - epŝ|²``: ``alpha² / sigma²``."""
    return noise.log_snr.exp()


def v_weighting(noise: NoiseMap) -> Float[Tensor, "*batch n e"]:
    """``|v - v̂|²``: ``1 / sigma²``."""
    return noise.sigma**-2


def flow_weighting(noise: NoiseMap) -> Float[Tensor, "*batch n e"]:
    """``|(eps - x) - (eps - x)̂|²``: ``((alpha + sigma) / sigma)²``, one over the square of the flow's time."""
    return noise.flow_level**-2


@named
def min_snr_weighting(gamma: float = 5.0) -> Weighting:
    """``min(SNR, gamma)``: the error of ``eps`` where it is noisy, of ``x`` where it is clean (Hang et al. 2023,
    arXiv:2303.09556).

    Args:
        gamma: SNR at which one gives way to the other.
    """
    _check_positive("gamma, a signal-to-noise ratio,", gamma)
    return lambda noise: noise.log_snr.exp().clamp(max=gamma)


@named
def edm_weighting(sigma_data: float = 0.5) -> Weighting:
    """``(s² + sigma_data²) / (s sigma_data)² = SNR + 1 / sigma_data²`` with ``s = sigma / alpha``: the plain error of
    EDM's network, whose targets have unit variance at every level (Karras et al. 2022, arXiv:2206.00364).

    EDM draws ``log s`` from ``N(-1.2, 1.2²)``; with levels of another law it is another objective.

    Args:
        sigma_data: standard deviation of the clean tokens. 1 is :func:`v_weighting`.
    """
    _check_positive("sigma_data, a standard deviation,", sigma_data)
    return lambda noise: noise.log_snr.exp() + sigma_data**-2


def _check_positive(what: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{what} must be positive and finite, got {value}")
