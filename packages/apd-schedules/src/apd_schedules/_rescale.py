"""Other scales of noisy tokens: what networks of other formulations are given as ``z``."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ._noise import NoiseMap

Scale = Literal["variance-preserving", "variance-exploding", "flow"]
"""``alpha x + sigma eps`` with ``alpha² + sigma² = 1``, ours; ``x + s eps``; ``(1 - t) x + t eps``."""


def rescale(
    z: Float[Tensor, "*batch n d"], noise: NoiseMap, source: Scale, target: Scale
) -> Float[Tensor, "*batch n d"]:
    """The same noisy tokens in another scale, by a factor for every level of the map.

    * ``variance-preserving``: ``z = alpha x + sigma eps``, what this library works with.
    * ``variance-exploding``: ``z / alpha = x + s eps`` with ``s = sigma / alpha = exp(-log_snr / 2)``, the noise level
      of EDM (Karras et al. 2022, arXiv:2206.00364).
    * ``flow``: ``z / (alpha + sigma) = (1 - t) x + t eps`` with ``t = noise.flow_level``, the straight line of
      rectified flow (Liu et al. 2022, arXiv:2209.03003).

    Args:
        z: noisy tokens in the scale ``source``.
        noise: their levels; the log-SNR is the same in every scale.
        source, target: names of scales.
    """
    for name in (source, target):
        if name not in get_args(Scale):
            raise ValueError(f"a scale of noisy tokens is one of {', '.join(get_args(Scale))}, got {name!r}")
    return z * (_factor(target, noise) / _factor(source, noise))


def _factor(scale: Scale, noise: NoiseMap) -> Float[Tensor, "*batch n e"]:
    """By what variance-preserving tokens are multiplied."""
    alpha, sigma = noise.alpha, noise.sigma
    if scale == "variance-exploding":
        return 1 / alpha
    return 1 / (alpha + sigma) if scale == "flow" else torch.ones_like(alpha)
