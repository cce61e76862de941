"""What happens when a gradient is not finite: the step is left out, and after too many in a row the run ends."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace


class DivergedError(RuntimeError):
    """Training does not go on: losses or gradients are not finite. The message is one line."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Counts the steps whose gradients are not finite.

    Such a step changes neither weights nor averages nor the optimizers' state. One comes now and then of a rare draw in
    half precision; many in a row are a run that has diverged.

    Args:
        limit: so many in a row are left out; one more ends the run.
        skipped: steps left out so far. Part of a run's state, like ``in_a_row``.
        in_a_row: of them without a good one since.

    Raises:
        ValueError: a limit below 1, counts that cannot be.
    """

    limit: int = 10
    skipped: int = 0
    in_a_row: int = 0

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")
        if not 0 <= self.in_a_row <= self.skipped:
            raise ValueError(f"of {self.skipped} skipped steps {self.in_a_row} cannot have been in a row")

    @property
    def skips(self) -> bool:
        """Whether the step that was seen last is to be left out."""
        return self.in_a_row > 0

    def next(self, step: int, norms: Sequence[float]) -> "Guard":
        """The guard after a step.

        Args:
            step: counted from 1, for the message.
            norms: of the gradients, see :func:`clip_gradients`. They are the same on all processes and are not finite
                where any process's loss is not (:func:`accumulate` sees to that), so all processes decide alike.

        Raises:
            DivergedError: it would be more than ``limit`` in a row.
        """
        if all(math.isfinite(norm) for norm in norms):
            return replace(self, in_a_row=0)
        after = replace(self, skipped=self.skipped + 1, in_a_row=self.in_a_row + 1)
        if after.in_a_row > self.limit:
            raise DivergedError(
                f"the gradient was not finite in {after.in_a_row} steps in a row, up to step {step}: "
                "try a smaller learning rate, also when going on from a checkpoint"
            )
        return after
