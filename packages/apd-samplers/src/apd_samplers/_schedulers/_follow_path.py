"""A fixed path in equal steps."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from apd_schedules import NoiseMap, NoiseSchedule, Path, Posterior


@dataclass(frozen=True, slots=True)
class FollowPath:
    """Walks ``path`` from ``s = 1`` to ``s = 0`` in ``max_steps`` equal steps.

    Maps are computed in float64 and handed over in the tokens' precision, float32 at least.
    """

    path: Path
    schedule: NoiseSchedule
    max_steps: int

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise ValueError(f"a path is walked in at least one step, got {self.max_steps}")

    def at(self, step: int, like: Tensor) -> NoiseMap:
        """The map after ``step`` steps, on the device of ``like``."""
        s = torch.tensor(1 - step / self.max_steps, dtype=torch.float64, device=like.device)
        return NoiseMap(self.schedule(self.path(s))).to(like)

    def init(self, z: Float[Tensor, "*batch n d"]) -> tuple[NoiseMap, tuple[int, Tensor]]:
        return self.at(0, z), (0, z)

    def next(
        self, noise: NoiseMap, posterior: Posterior, state: tuple[int, Tensor]
    ) -> tuple[NoiseMap, tuple[int, Tensor]]:
        step, like = state
        return self.at(step + 1, like), (step + 1, like)
