"""Where a run stands, for the run itself and for those who watch it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ._guard import Guard


@dataclass(frozen=True, slots=True)
class Progress:
    """What is shown of a run.

    Args:
        step: steps done, of ``steps``.
        loss: mean training loss since the last report; not a number if all steps were skipped.
        heldout_loss: of the averaged weights, at the last evaluation.
        images_per_second: since the last report, over all devices.
        seconds_left: at that pace.
        error_nll: mean negative log-likelihood of the errors since the last report, with an error head.
        grad_norm: of the last step, before clipping.
        skipped: steps left out so far, since their gradients were not finite.
        memory: the most used so far, in bytes: on a GPU by tensors, on a CPU by the process.
        mfu: share of what the devices can do at most that the model takes up; None where that is not known.
    """

    step: int
    steps: int
    loss: float
    heldout_loss: float
    images_per_second: float
    seconds_left: float
    error_nll: float | None = None
    grad_norm: float = 0.0
    skipped: int = 0
    memory: int = 0
    mfu: float | None = None


@dataclass(slots=True)
class Position:
    """All that a run needs to go on besides tensors: plain numbers, which a checkpoint holds.

    Args:
        guard: which steps were skipped.
        step: steps done, skipped ones among them.
        settled: what is due after that step has been done: snapshot, evaluation, pictures.
        grad_norm: of the last step, before clipping.
        counted: steps since the last report that were not skipped.
        seconds: of the run up to here, over all its starts.
        metrics_size: bytes of ``metrics.jsonl``.
        first_loss, last_loss: held out, of the averaged weights.
        first_nll, last_nll: likewise of the errors, with an error head.
    """

    guard: Guard
    step: int = 0
    settled: bool = False
    grad_norm: float = 0.0
    counted: int = 0
    seconds: float = 0.0
    metrics_size: int = 0
    first_loss: float | None = None
    last_loss: float | None = None
    first_nll: float | None = None
    last_nll: float | None = None

    def facts(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {**asdict(self), "guard": {"skipped": self.guard.skipped, "in_a_row": self.guard.in_a_row}}

    def take(self, facts: Mapping[str, Any]) -> None:
        """Goes to where :meth:`facts` was given."""
        for item in fields(self):
            if item.name != "guard":
                setattr(self, item.name, facts[item.name])
        self.guard = Guard(self.guard.limit, **facts["guard"])
