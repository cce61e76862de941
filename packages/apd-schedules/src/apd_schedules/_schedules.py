"""Noise schedules: level in [0, 1] to log-SNR, and back.

Each runs between two finite ends, ``clean`` at level 0 and ``noise`` at level 1 (nats). The arguments of the logarithms
are interpolated between constants computed in float64, one form for either side: ``1 - t`` is never computed from a
rounded ``t``, so both ends are met to rounding in float32, and what is between to 2 eps of the larger end.

``level_of`` is the inverse, elementwise; beyond the ends it stays at 0 or 1. It is ``p / (p + q)``, where ``p`` and
``q`` are how far the level is from the clean and from the noise end, each from ``expm1`` of a difference of log-SNRs: a
level near 0 keeps its digits, and both ends are exact.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ._noise import NoiseSchedule, logistic

LIMIT = 40.0
"""In nats. There the lesser factor of z is exp(-20), 2e-9: no data tell more noise, or less, from this."""


@runtime_checkable
class InvertibleSchedule(NoiseSchedule, Protocol):
    """A schedule that knows its ends and its inverse, as all schedules of this package do."""

    @property
    def clean(self) -> float:
        """Log-SNR at level 0, in nats."""
        ...

    @property
    def noise(self) -> float:
        """Log-SNR at level 1, in nats."""
        ...

    def level_of(self, log_snr: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """The level at which the schedule has this log-SNR: 0 at ``clean`` and above, 1 at ``noise`` and below."""
        ...


@dataclass(frozen=True, slots=True)
class RectifiedFlow:
    """``log_snr = 2 log((1 - t) / t)``: the straight line of Liu et al. 2022 (arXiv:2209.03003), up to a scale of z.

    The level is the time of the flow, squeezed into the interval between the two ends. By default these lie at times
    1e-4 and 1 - 1e-4, where the other factor, 1 - 5e-9, rounds to 1 in float32: a clean token *is* its data.

    >>> import torch
    >>> schedule = RectifiedFlow()
    >>> schedule(torch.tensor([0.5])).item()
    0.0
    >>> schedule.level_of(torch.tensor([100.0, 0.0, -100.0])).tolist()
    [0.0, 0.5, 1.0]
    """

    clean: float = 2 * math.log(9999)
    noise: float = -2 * math.log(9999)

    def __post_init__(self) -> None:
        check_ends(self.clean, self.noise)

    def __call__(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return flow_log_snr(1 - t, t, self.clean, self.noise)

    def level_of(self, log_snr: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """``(sigmoid(-l / 2) - t_clean) / (t_noise - t_clean)``."""
        p, q = flow_parts(log_snr.clamp(self.noise, self.clean), self.clean, self.noise)
        return level_between(p, q)


@dataclass(frozen=True, slots=True)
class Cosine:
    """``log_snr = -2 log tan(angle)``, the angle linear in level (Nichol & Dhariwal 2021, arXiv:2102.09672).

    The variance-preserving reading of Kingma & Gao 2023 (arXiv:2303.00848): ``alpha = cos``, ``sigma = sin``.
    """

    clean: float = 13.3
    noise: float = -13.3

    def __post_init__(self) -> None:
        check_ends(self.clean, self.noise)

    def __call__(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        angle = mix(math.atan(math.exp(-self.clean / 2)), math.atan(math.exp(-self.noise / 2)), t)
        rest = mix(math.atan(math.exp(self.clean / 2)), math.atan(math.exp(self.noise / 2)), t)
        return 2 * (rest.sin().log() - angle.sin().log())

    def level_of(self, log_snr: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """The share of the angle: ``atan a - atan b = atan((a - b) / (1 + a b))``, with ``a = exp(-l / 2)``."""
        log_snr = log_snr.clamp(self.noise, self.clean)
        tan = (-log_snr / 2).exp()
        p = -tan * ((log_snr - self.clean) / 2).expm1() / (1 + tan * math.exp(-self.clean / 2))
        q = tan * ((log_snr - self.noise) / 2).expm1() / (1 + tan * math.exp(-self.noise / 2))
        return level_between(p.atan(), q.atan())


@dataclass(frozen=True, slots=True)
class Linear:
    """log-SNR linear in level: VDM's fixed schedule and ends (Kingma et al. 2021, arXiv:2107.00630)."""

    clean: float = 13.3
    noise: float = -5.0

    def __post_init__(self) -> None:
        check_ends(self.clean, self.noise)

    def __call__(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return mix(self.clean, self.noise, t)

    def level_of(self, log_snr: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """``(clean - l) / (clean - noise)``."""
        log_snr = log_snr.clamp(self.noise, self.clean)
        p, q = self.clean - log_snr, log_snr - self.noise
        return level_between(p, q)


def check_ends(clean: float, noise: float) -> None:
    if not LIMIT >= clean > noise >= -LIMIT:
        raise ValueError(
            f"a schedule needs log-SNR ends with clean > noise, within ±{LIMIT:g} nats, "
            f"got clean={clean}, noise={noise}"
        )


def mix(at_clean: float, at_noise: float, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    return at_clean * (1 - t) + at_noise * t


def level_between(p: Float[Tensor, "*s"], q: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """The level whose distances from the clean and the noise end are as ``p`` to ``q``."""
    return p / (p + q) + 0.0  # -0.0 is no level


def flow_parts(
    log_snr: Float[Tensor, "*s"], clean: float, noise: float
) -> tuple[Float[Tensor, "*s"], Float[Tensor, "*s"]]:
    """How far a log-SNR is from either end in the time of rectified flow: level and 1 - level of ``RectifiedFlow``.

    ``sigmoid(a) - sigmoid(b) = -sigmoid(a) sigmoid(-b) expm1(b - a)`` keeps the digits of a small difference.
    """
    whole = -sigmoid(-noise / 2) * sigmoid(clean / 2) * math.expm1((noise - clean) / 2)
    p = -logistic(-log_snr / 2) * ((log_snr - clean) / 2).expm1() * (sigmoid(clean / 2) / whole)
    q = -logistic(log_snr / 2) * ((noise - log_snr) / 2).expm1() * (sigmoid(-noise / 2) / whole)
    return p, q


def flow_log_snr(
    clean_share: Float[Tensor, "*s"], noise_share: Float[Tensor, "*s"], clean: float, noise: float
) -> Float[Tensor, "*s"]:
    """The log-SNR between two ends at a level given from either side: ``noise_share`` and 1 minus it."""
    noise_part = sigmoid(-clean / 2) * clean_share + sigmoid(-noise / 2) * noise_share
    clean_part = sigmoid(clean / 2) * clean_share + sigmoid(noise / 2) * noise_share
    return 2 * (clean_part.log() - noise_part.log())


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
