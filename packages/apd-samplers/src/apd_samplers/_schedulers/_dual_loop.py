"""Large steps for certain tokens, small ones for the others."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from apd_schedules import NoiseMap, NoiseSchedule, Posterior

from ._least import least, part
from ._start import Start, map_at, start_levels
from ._uncertainty import Predicted, Uncertainty, is_memoryless


class DualLoopState(NamedTuple):
    """Args:
    step: steps made.
    last: steps after which every token of every image is clean.
    start: level that each token starts from.
    certain: tokens that are ahead in the present outer step.
    memory: state of the uncertainty.
    """

    step: int
    last: int
    start: Float[Tensor, "*batch n"]
    certain: Bool[Tensor, "*batch n"]
    memory: Any


@dataclass(frozen=True, slots=True)
class DualLoop:
    """Certain tokens go ahead and the others follow in small steps that see them (Patch Forcing, arXiv:2604.19141).

    Outer steps divide every token's way to clean equally, ``inner`` substeps each outer step. At the first evaluation
    of an outer step the tokens of least uncertainty in their image are certain, and take the whole outer step at once;
    the others take the first substep by the same posterior. At each of the ``inner - 1`` further evaluations only the
    others move, a substep, with the certain ones ahead. After an outer step all are level again, so that with growing
    ``outer`` this samples the law that synchronous generation does.

    It takes ``outer * inner`` evaluations; in each outer step a certain token moves once, another one ``inner`` times.
    The host reads from the device once, in ``init``: whether anything is unknown.

    Args:
        share: of an image's unknown tokens that are certain, in [0, 1), to the nearest number but never all. 0 is
            synchronous in ``outer * inner`` steps.
        start: levels that tokens start from, ``(*batch, n, 1)`` or ``(n, 1)``: 1 noise, 0 known. All noise by default.

    Raises:
        ValueError: fewer than one step, a share outside [0, 1).
    """

    schedule: NoiseSchedule
    outer: int
    inner: int
    share: float = 0.4
    uncertainty: Uncertainty[Any] = Predicted()
    start: Start | None = None

    def __post_init__(self) -> None:
        if self.outer < 1 or self.inner < 1:
            raise ValueError(f"each loop takes at least one step, got outer={self.outer} and inner={self.inner}")
        if not 0 <= self.share < 1:
            raise ValueError(
                f"share is the part of the tokens that goes ahead of the rest, in [0, 1): got {self.share}"
            )

    @property
    def max_steps(self) -> int:
        return self.outer * self.inner

    def init(self, z: Float[Tensor, "*batch n d"]) -> tuple[NoiseMap, DualLoopState]:
        levels = start_levels(self.start, z)
        start = levels[..., 0]
        last = self.max_steps if bool((start > 0).any()) else 0
        state = DualLoopState(0, last, start, torch.zeros_like(start, dtype=torch.bool), self.uncertainty.init(z))
        return map_at(self.schedule, levels, z), state

    def next(self, noise: NoiseMap, posterior: Posterior, state: DualLoopState) -> tuple[NoiseMap, DualLoopState]:
        step, last, start, certain, memory = state
        error, memory = self.uncertainty(noise, posterior, memory)
        outer, substep = divmod(step, self.inner)
        if substep == 0:
            unknown = (start > 0).sum(-1)
            count = torch.minimum(part(self.share, unknown), unknown - 1)
            certain = least(error, start > 0, count)
        done = torch.where(certain, (outer + 1) * self.inner, step + 1)  # in substeps
        levels = start * ((self.max_steps - done).to(start) / self.max_steps)
        state = DualLoopState(step + 1, last, start, certain, memory)
        return map_at(self.schedule, levels[..., None], noise.log_snr), state

    def moving(self, noise: NoiseMap, state: DualLoopState) -> Bool[Tensor, "*batch n"]:
        """All unknown tokens; after the first substep only the others, unless the uncertainty remembers guesses."""
        unknown = state.start > 0
        return unknown & ~state.certain if state.step % self.inner and is_memoryless(self.uncertainty) else unknown

    def finished(self, noise: NoiseMap, state: DualLoopState) -> bool:
        return state.step >= state.last
