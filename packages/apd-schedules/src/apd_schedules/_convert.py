"""What a network may predict, from and to the clean tokens ``x``.

With ``z = alpha x + sigma eps``: noise ``eps`` (Ho et al. 2020, arXiv:2006.11239), velocity ``v = alpha eps - sigma x``
(Salimans & Ho 2022, arXiv:2202.00512) and flow ``eps - x``, the velocity of rectified flow (Liu et al. 2022,
arXiv:2209.03003), ``score``, the gradient of ``log p(z)`` (Song et al. 2021, arXiv:2011.13456), and the output ``F`` of
EDM's preconditioned network (Karras et al. 2022, arXiv:2206.00364). Given ``z`` and the map, each is an affine function
of ``x``. All tensors are ``(*batch, n, d)``, ``z`` is variance-preserving: see :func:`rescale`. ``x_from_v``,
``x_from_flow`` and ``x_from_edm`` are well conditioned at every level, ``x_from_eps`` and ``x_from_score`` are not near
pure noise, and the ``*_from_x`` divide by ``sigma``: near clean tokens they lose digits.
"""

import math

from jaxtyping import Float
from torch import Tensor

from ._noise import NoiseMap, logistic


def eps_from_x(
    x: Float[Tensor, "*batch n d"], z: Float[Tensor, "*batch n d"], noise: NoiseMap
) -> Float[Tensor, "*batch n d"]:
    """``(z - alpha x) / sigma``."""
    return (z - noise.alpha * x) / noise.sigma


def x_from_eps(
    eps: Float[Tensor, "*batch n d"], z: Float[Tensor, "*batch n d"], noise: NoiseMap
) -> Float[Tensor, "*batch n d"]:
    """``(z - sigma eps) / alpha``."""
    return (z - noise.sigma * eps) / noise.alpha


def v_from_x(
    x: Float[Tensor, "*batch n d"], z: Float[Tensor, "*batch n d"], noise: NoiseMap
) -> Float[Tensor, "*batch n d"]:
    """``(alpha z - x) / sigma``."""
    return (noise.alpha * z - x) / noise.sigma


def x_from_v(
    v: Float[Tensor, "*batch n d"], z: Float[Tensor, "*batch n d"], noise: NoiseMap
) -> Float[Tensor, "*batch n d"]:
    """``alpha z - sigma v``."""
    return noise.alpha * z - noise.sigma * v


def flow_from_x(
    x: Float[Tensor, "*batch n d"], z: Float[Tensor, "*batch n d"], noise: NoiseMap
) -> Float[Tensor, "*batch n d"]:
    """``(z - (alpha + sigma) x) / sigma``."""
    alpha, sigma = noise.alpha, noise.sigma
    return (z - (alpha + sigma) * x) / sigma


def x_from_flow(
    flow: Float[Tensor, "*batch n d"], z: Float[Tensor, "*batch n d"], noise: NoiseMap
) -> Float[Tensor, "*batch n d"]:
    """``(z - sigma flow) / (alpha + sigma)``."""
    alpha, sigma = noise.alpha, noise.sigma
    return (z - sigma * flow) / (alpha + sigma)


def score_from_x(
    x: Float[Tensor, "*batch n d"], z: Float[Tensor, "*batch n d"], noise: NoiseMap
) -> Float[Tensor, "*batch n d"]:
    """``(alpha x - z) / sigma²``, which is ``-eps / sigma``."""
    return (noise.alpha * x - z) / _variance(noise)


def x_from_score(
    score: Float[Tensor, "*batch n d"], z: Float[Tensor, "*batch n d"], noise: NoiseMap
) -> Float[Tensor, "*batch n d"]:
    """``(z + sigma² score) / alpha``: Tweedie's formula."""
    return (z + _variance(noise) * score) / noise.alpha


def edm_from_x(
    x: Float[Tensor, "*batch n d"], z: Float[Tensor, "*batch n d"], noise: NoiseMap, data_std: float = 0.5
) -> Float[Tensor, "*batch n d"]:
    """``(x - c_skip z / alpha) / c_out``: what EDM's network itself puts out, its targets of unit variance.

    With ``s = sigma / alpha`` of every element, ``c_skip = data_std² / (s² + data_std²)`` and
    ``c_out = s data_std / sqrt(s² + data_std²)``. For ``data_std = 1`` it is ``-v``.

    Args:
        data_std: standard deviation of clean tokens that the network was trained with, above 0.
    """
    skip, out = _edm_factors(noise, data_std)
    return (x - skip * z) / out


def x_from_edm(
    edm: Float[Tensor, "*batch n d"], z: Float[Tensor, "*batch n d"], noise: NoiseMap, data_std: float = 0.5
) -> Float[Tensor, "*batch n d"]:
    """``c_skip z / alpha + c_out F``: see :func:`edm_from_x`."""
    skip, out = _edm_factors(noise, data_std)
    return skip * z + out * edm


def _variance(noise: NoiseMap) -> Float[Tensor, "*batch n e"]:
    return logistic(-noise.log_snr)


def _edm_factors(noise: NoiseMap, data_std: float) -> tuple[Float[Tensor, "*batch n e"], Float[Tensor, "*batch n e"]]:
    """``c_skip / alpha`` and ``c_out``, multiplied out so that neither divides by ``alpha``."""
    if not 0 < data_std < math.inf:
        raise ValueError(f"data_std is a standard deviation, above 0 and finite, got {data_std}")
    alpha, sigma = noise.alpha, noise.sigma
    std = (_variance(noise) + data_std**2 * noise.log_snr.sigmoid()).sqrt()  # of z
    return alpha * (data_std / std) ** 2, sigma * (data_std / std)
