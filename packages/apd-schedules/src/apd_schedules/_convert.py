"""What a network may predict, from and to the clean tokens ``x``.

With ``z = alpha x + sigma eps``: noise ``eps`` (Ho et al. 2020, arXiv:2006.11239), velocity ``v = alpha eps - sigma x``
(Salimans & Ho 2022, arXiv:2202.00512) and flow ``eps - x``, the velocity of rectified flow (Liu et al. 2022,
arXiv:2209.03003). Given ``z`` and the map, each is an affine function of ``x``. All tensors are ``(*batch, n, d)``.
``x_from_v`` and ``x_from_flow`` are well conditioned at every level, ``x_from_eps`` is not near pure noise, and the
``*_from_x`` divide by ``sigma``: near clean tokens they lose digits.
"""

from jaxtyping import Float
from torch import Tensor

from ._noise import NoiseMap


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
