"""A schedule moved to more or less noise, both its ends kept."""

import math
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from ._schedules import LIMIT, InvertibleSchedule, flow_log_snr, flow_parts


@dataclass(frozen=True, slots=True)
class Shifted:
    """What :func:`shifted` returns: a schedule with ``nats`` added to the log-SNR between its ends."""

    schedule: InvertibleSchedule
    nats: float

    def __post_init__(self) -> None:
        if not abs(self.nats) <= LIMIT:
            raise ValueError(f"a shift of the log-SNR must be within ±{LIMIT:g} nats, got {self.nats}")

    @property
    def clean(self) -> float:
        """Log-SNR at level 0, in nats."""
        return self.schedule.clean

    @property
    def noise(self) -> float:
        """Log-SNR at level 1, in nats."""
        return self.schedule.noise

    def __call__(self, t: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return self._move(self.schedule(t), self.nats, t <= 0, t >= 1)

    def level_of(self, log_snr: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """The level of the schedule itself at the log-SNR before the shift."""
        at_clean, at_noise = log_snr >= self.clean, log_snr <= self.noise
        before = self._move(log_snr.clamp(self.noise, self.clean), -self.nats, at_clean, at_noise)
        return self.schedule.level_of(before).masked_fill(at_clean, 0).masked_fill(at_noise, 1)

    def _move(
        self, log_snr: Float[Tensor, "*s"], nats: float, at_clean: Bool[Tensor, "*s"], at_noise: Bool[Tensor, "*s"]
    ) -> Float[Tensor, "*s"]:
        p, q = flow_parts(log_snr, self.clean, self.noise)
        p, q = _pinned(p, at_clean) * math.exp(-nats / 2), _pinned(q, at_noise)
        return flow_log_snr(q / (p + q), p / (p + q), self.clean, self.noise)


def shifted(schedule: InvertibleSchedule, nats: float) -> Shifted:
    """The schedule with ``nats`` added to its log-SNR, less and less towards its ends, which stay as they are.

    With ``p`` the distance from the clean end in the time of rectified flow, and ``q`` from the noise end, both as
    shares of the whole, the odds ``p / q`` are multiplied by ``s = exp(-nats / 2)``. Were the ends infinite, this would
    add ``nats`` everywhere. Shifts of one schedule add up: ``shifted(shifted(x, a), b)`` is ``shifted(x, a + b)``.

    Larger images need more noise to hide as much, that is, a negative shift. Of two resolutions, Hoogeboom et al. 2023
    (simple diffusion, arXiv:2301.11093) add ``2 log(base / side)``, which is :func:`resolution_shift`. Esser et al.
    2024 (Stable Diffusion 3, arXiv:2403.03206, eq. 23) map the time of the flow by ``t' = s t / (1 + (s - 1) t)``,
    which for a :class:`RectifiedFlow` is this function with ``nats = -2 log(s)``.

    Args:
        schedule: any that knows its ends and its inverse.
        nats: within ±40. Positive is cleaner.
    """
    return Shifted(schedule, nats)


def resolution_shift(side: int, base: int = 64) -> float:
    """``2 log(base / side)`` nats: the shift that a schedule made for images of side ``base`` needs for ``side``.

    In pixels, or in the cells of a latent; Hoogeboom et al. 2023, arXiv:2301.11093.

    >>> round(resolution_shift(256), 3)
    -2.773
    """
    if side < 1 or base < 1:
        raise ValueError(f"sides of images must be at least 1, got side={side}, base={base}")
    return 2 * math.log(base / side)


def _pinned(distance: Float[Tensor, "*s"], at_end: Bool[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """A distance with the rounding taken out where it is known to be zero, or would be below; derivatives are kept.

    An end of a schedule is met to rounding, and a shift multiplies what is left by ``s``.
    """
    exact = distance.clamp(min=0).masked_fill(at_end, 0)
    return distance + (exact - distance).detach()
