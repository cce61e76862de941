"""How much an error counts at each level: weights on the squared error of ``x``.

The squared errors of one denoiser in different predictions differ by a factor that depends on the level alone
(Kingma & Gao 2023, arXiv:2303.00848). Each function here is that factor for a plain mean
squared error of the prediction it is named after.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from apd_schedules import NoiseMap

Weighting = Callable[[NoiseMap], Float[Tensor, "*batch n e"]]


def x_weighting(noise: NoiseMap) -> Float[Tensor, "*batch n e"]:
    """``|x - x̂|²``: 1."""
    return torch.ones_like(noise.log_snr)


def eps_weighting(noise: NoiseMap) -> Float[Tensor, "*batch n e"]:
    """``|eps - epŝ|²``: ``alpha² / sigma²``."""
    return noise.log_snr.exp()


def v_weighting(noise: NoiseMap) -> Float[Tensor, "*batch n e"]:
    """``|v - v̂|²``: ``1 / sigma²``."""
    return noise.sigma**-2


def flow_weighting(noise: NoiseMap) -> Float[Tensor, "*batch n e"]:
    """``|(eps - x) - (eps - x)̂|²``: ``((alpha + sigma) / sigma)²``, one over the square of the flow's time."""
    return noise.flow_level**-2
