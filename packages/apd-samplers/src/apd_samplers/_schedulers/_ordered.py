"""One group of tokens after another, in an order that the model chooses."""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from apd_schedules import NoiseMap, NoiseSchedule, Posterior

from ._least import least
from ._start import Start, map_at, start_levels
from ._uncertainty import Predicted, Uncertainty, is_memoryless


class OrderedState(NamedTuple):
    """Args:
    step: steps made.
    last: steps after which every token of every image is clean.
    start: level that each token starts from.
    began: step in which each token began to move, ``max_steps`` for one that has not.
    memory: state of the uncertainty.
    """

    step: int
    last: int
    start: Float[Tensor, "*batch n"]
    began: Int[Tensor, "*batch n"]
    memory: Any


@dataclass(frozen=True, slots=True)
class MostCertainFirst:
    """Each image in its own order: always the tokens next of which the model is most certain (SRM, Wewer et al. 2025,
    arXiv:2502.21075).

    Group ``g``, from 0, begins at step ``round(g steps_per_group (1 - overlap))``. By the posterior at that map it
    takes the least uncertain of the tokens that have not begun, the first of equals, and brings them from their start
    levels to clean on a linear ramp of ``steps_per_group`` steps.

    An image's unknown tokens are divided into ``groups`` groups as equal as can be, as ``grouped`` divides turns; known
    tokens take no turn. An image of fewer unknown tokens than ``groups`` has one a group, and is done earlier: a batch
    ends with its last image, after ``round((k - 1) steps_per_group (1 - overlap)) + steps_per_group`` steps, where
    ``k`` is the largest number of groups. Every unknown token moves in exactly ``steps_per_group`` of them.

    Without overlap an order depends on finished tokens only, and small steps sample the model's law whatever the order.
    With overlap it depends on tokens under way as well: then only ancestral steps, ``DDIM(1.0, noise)``, are sure to.
    The control is a random order, ``uncertainty=AtRandom(noise)``.

    The host reads from the device once, in ``init``: how many tokens are unknown.

    Args:
        groups: at least 1, which is synchronous.
        steps_per_group: of one ramp.
        overlap: in [0, 1). The next group begins when the present one has done ``1 - overlap`` of its ramp; the nearer
            to 1, the nearer to synchronous.
        start: levels that tokens start from, ``(*batch, n, 1)`` or ``(n, 1)``: 1 noise, 0 known. All noise by default.
        reverse: most uncertain first.

    Raises:
        ValueError: fewer than one group or step, an overlap outside [0, 1).
    """

    schedule: NoiseSchedule
    groups: int
    steps_per_group: int
    overlap: float = 0.0
    uncertainty: Uncertainty[Any] = Predicted()
    start: Start | None = None
    reverse: bool = False

    def __post_init__(self) -> None:
        if self.groups < 1 or self.steps_per_group < 1:
            raise ValueError(
                "an order takes at least one group and one step a group, got "
                f"groups={self.groups} and steps_per_group={self.steps_per_group}"
            )
        if not 0 <= self.overlap < 1:
            raise ValueError(
                f"overlap is the share of a ramp that the next group shares, in [0, 1): got {self.overlap}"
            )

    def _begins(self, group: int) -> int:
        """The step in which a group begins."""
        return round(group * self.steps_per_group * (1 - self.overlap))

    def _begun(self, step: int) -> int:
        """Groups that begin in a step or before."""
        return bisect_right(range(self.groups), step, key=self._begins)

    @property
    def max_steps(self) -> int:
        return self._begins(self.groups - 1) + self.steps_per_group

    def init(self, z: Float[Tensor, "*batch n d"]) -> tuple[NoiseMap, OrderedState]:
        levels = start_levels(self.start, z)
        start = levels[..., 0]
        turns = min(self.groups, int((start > 0).sum(-1).max())) if start.numel() else 0
        last = self._begins(turns - 1) + self.steps_per_group if turns else 0
        began = torch.full_like(start, self.max_steps, dtype=torch.long)
        return map_at(self.schedule, levels, z), OrderedState(0, last, start, began, self.uncertainty.init(z))

    def next(self, noise: NoiseMap, posterior: Posterior, state: OrderedState) -> tuple[NoiseMap, OrderedState]:
        step, last, start, began, memory = state
        error, memory = self.uncertainty(noise, posterior, memory)
        unknown = (start > 0).sum(-1)
        turns = unknown.clamp(1, self.groups)
        begun = self._begun(step)
        due = (begun * unknown + turns - 1) // turns  # that many groups hold so many tokens, all of them in the end
        waiting = (start > 0) & (began == self.max_steps)
        taken = least(-error if self.reverse else error, waiting, due - unknown + waiting.sum(-1))
        began = torch.where(taken, step, began)
        left = self.steps_per_group - (step + 1 - began).clamp(0, self.steps_per_group)
        levels = start * (left.to(start) / self.steps_per_group)
        state = OrderedState(step + 1, last, start, began, memory)
        return map_at(self.schedule, levels[..., None], noise.log_snr), state

    def moving(self, noise: NoiseMap, state: OrderedState) -> Bool[Tensor, "*batch n"]:
        """Tokens under way; those that wait too where a group is chosen, or if the uncertainty remembers guesses."""
        step, _, start, began, _ = state
        left = (start > 0) & (step < began + self.steps_per_group)
        chooses = self._begun(step) > self._begun(step - 1)
        return left if chooses or not is_memoryless(self.uncertainty) else left & (began < step)

    def finished(self, noise: NoiseMap, state: OrderedState) -> bool:
        return state.step >= state.last
