"""Noise schedules: level in [0, 1] to log-SNR.

Each runs between two finite ends, ``clean`` at level 0 and ``noise`` at level 1 (nats). The arguments of the logarithms
are interpolated between constants computed in float64, one form for either side: ``1 - t`` is never computed from a
rounded ``t``, so both ends are met to rounding in float32.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

LIMIT = 40.0
"""In nats. There the lesser factor of z is exp(-20), 2e-9: no data tell more noise, or less, from this."""


def _check_ends(clean: float, noise: float) -> None:
    if not LIMIT >= clean > noise >= -LIMIT:
        raise ValueError(
            f"a schedule needs log-SNR ends with clean > noise, within ±{LIMIT:g} nats, "
            f"got clean={clean}, noise={noise}"
        )


def _mix(at_clean: float, at_noise: float, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    return at_clean * (1 - t) + at_noise * t


@dataclass(frozen=True, slots=True)
class RectifiedFlow:
    """``log_snr = 2 log((1 - t) / t)``: the straight line of Liu et al. 2022 (arXiv:2209.03003), up to a scale of z.

    The level is the time of the flow, squeezed into the interval between the two ends. By default these lie at times
    1e-4 and 1 - 1e-4, where the other factor, 1 - 5e-9, rounds to 1 in float32: a clean token *is* its data.
    """

    clean: float = 2 * math.log(9999)
    noise: float = -2 * math.log(9999)

    def __post_init__(self) -> None:
        _check_ends(self.clean, self.noise)

    def __call__(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        noise_part = _mix(_sigmoid(-self.clean / 2), _sigmoid(-self.noise / 2), t)
        clean_part = _mix(_sigmoid(self.clean / 2), _sigmoid(self.noise / 2), t)
        return 2 * (clean_part.log() - noise_part.log())


@dataclass(frozen=True, slots=True)
class Cosine:
    """``log_snr = -2 log tan(angle)``, the angle linear in level (Nichol & Dhariwal 2021, arXiv:2102.09672).

    The variance-preserving reading of Kingma & Gao 2023 (arXiv:2303.00848): ``alpha = cos``, ``sigma = sin``.
    """

    clean: float = 13.3
    noise: float = -13.3

    def __post_init__(self) -> None:
        _check_ends(self.clean, self.noise)

    def __call__(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        angle = _mix(math.atan(math.exp(-self.clean / 2)), math.atan(math.exp(-self.noise / 2)), t)
        rest = _mix(math.atan(math.exp(self.clean / 2)), math.atan(math.exp(self.noise / 2)), t)
        return 2 * (rest.sin().log() - angle.sin().log())


@dataclass(frozen=True, slots=True)
class Linear:
    """log-SNR linear in level: VDM's fixed schedule and ends (Kingma et al. 2021, arXiv:2107.00630)."""

    clean: float = 13.3
    noise: float = -5.0

    def __post_init__(self) -> None:
        _check_ends(self.clean, self.noise)

    def __call__(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return _mix(self.clean, self.noise, t)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
