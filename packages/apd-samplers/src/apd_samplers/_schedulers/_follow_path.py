"""A fixed path in equal steps."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from apd_schedules import NoiseMap, NoiseSchedule, Path, Posterior, check_monotone


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
        levels = self._levels(0)
        stops, sound = [0], bool(((levels >= 0) & (levels <= 1)).all())
        for step in range(1, self.max_steps + 1):
            before, levels = levels, self._levels(step)
            sound = sound and bool(((levels >= 0) & (levels <= before)).all())
            if not torch.equal(before, levels):
                stops.append(step)
        if not sound:
            check_monotone(self.path, self.max_steps + 1)  # says where, unless it is rounding
        object.__setattr__(self, "_stops", tuple(stops))

    def _levels(self, step: int, device: torch.device | None = None) -> Float[Tensor, "*batch n e"]:
        """Levels after ``step`` of the ``max_steps`` equal steps, in float64."""
        return self.path(torch.full((), 1 - step / self.max_steps, dtype=torch.float64, device=device))

    def at(self, step: int, like: Tensor) -> NoiseMap:
        """The map after ``step`` steps, on the device of ``like``."""
        return NoiseMap(self.schedule(self._levels(step, like.device))).to(like)

    def init(self, z: Float[Tensor, "*batch n d"]) -> tuple[NoiseMap, tuple[int, Tensor]]:
        return self.at(0, z), (0, z)

    def next(
        self, noise: NoiseMap, posterior: Posterior, state: tuple[int, Tensor]
    ) -> tuple[NoiseMap, tuple[int, Tensor]]:
        stop, like = state
        return self.at(self._stops[stop + 1], like), (stop + 1, like)

    def finished(self, noise: NoiseMap, state: tuple[int, Tensor]) -> bool:
        return state[0] + 1 == len(self._stops)
