"""A fixed path in equal steps."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from apd_schedules import NoiseMap, NoiseSchedule, Path, Posterior, check_monotone

from ._scheduler import moved

KEPT = 2**24
"""Levels of a walk that are computed before it starts, and kept. A larger walk computes each map when it is due, for
which paths may have to copy their numbers to the device."""


class Walk(NamedTuple):
    """Args:
    stop: of those at which a token moves, how many lie behind.
    like: a tensor of the tokens' device and precision.
    maps: at all stops, if they are kept.
    """

    stop: int
    like: Tensor
    maps: tuple[NoiseMap, ...] | None


@dataclass(frozen=True, slots=True)
class FollowPath:
    """Walks ``path`` from ``s = 1`` to ``s = 0`` in ``max_steps`` equal steps; those in which no token moves are left
    out, since the network would only say again what it said before.

    Maps are computed in float64 and handed over in the tokens' precision, float32 at least.

    Raises:
        ValueError: fewer than one step, or a level that leaves [0, 1] or grows from one step to the next.
    """

    path: Path
    schedule: NoiseSchedule
    max_steps: int
    _stops: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise ValueError(f"a path is walked in at least one step, got {self.max_steps}")
        levels = self._raw(0)
        stops, sound = [0], bool(((levels >= 0) & (levels <= 1)).all())
        for step in range(1, self.max_steps + 1):
            before, levels = levels, self._raw(step)
            sound = sound and bool(((levels >= 0) & (levels <= before)).all())
            if not torch.equal(before, levels):
                stops.append(step)
        if not sound:
            check_monotone(self.path, self.max_steps + 1)  # says where, unless it is rounding
        object.__setattr__(self, "_stops", tuple(stops))

    def _levels(self, step: int, device: torch.device | None = None) -> Float[Tensor, "*batch n e"]:
        """Levels after ``step`` of the ``max_steps`` equal steps, in float64; what leaves [0, 1] was found to round."""
        return self._raw(step, device).clamp(0, 1)

    def _raw(self, step: int, device: torch.device | None = None) -> Float[Tensor, "*batch n e"]:
        return self.path(torch.full((), 1 - step / self.max_steps, dtype=torch.float64, device=device))

    def at(self, step: int, like: Tensor) -> NoiseMap:
        """The map after ``step`` steps, on the device of ``like``."""
        return NoiseMap(self.schedule(self._levels(step, like.device))).to(like)

    def init(self, z: Float[Tensor, "*batch n d"]) -> tuple[NoiseMap, Walk]:
        first = self.at(0, z)
        small = first.log_snr.numel() * len(self._stops) <= KEPT
        return first, Walk(0, z, tuple(self.at(step, z) for step in self._stops) if small else None)

    def next(self, noise: NoiseMap, posterior: Posterior, state: Walk) -> tuple[NoiseMap, Walk]:
        return self._target(state), state._replace(stop=state.stop + 1)

    def _target(self, state: Walk) -> NoiseMap:
        stop = state.stop + 1
        return self.at(self._stops[stop], state.like) if state.maps is None else state.maps[stop]

    def moving(self, noise: NoiseMap, state: Walk) -> Bool[Tensor, "*batch n"]:
        return moved(noise, self._target(state))

    def finished(self, noise: NoiseMap, state: Walk) -> bool:
        return state.stop + 1 == len(self._stops)
