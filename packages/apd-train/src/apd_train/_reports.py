"""What a run tells of itself: lines of metrics, for the folder, for trackers and for a display."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor

from ._flops import utilisation
from ._guard import DivergedError
from ._held_out import HeldOut
from ._position import Position, Progress
from ._run_config import RunConfig
from ._run_folder import RunFolder, WriteError
from ._trackers import Tracker
from ._watch import peak_memory


@dataclass(frozen=True, slots=True)
class Work:
    """How much arithmetic a run takes.

    Args:
        flops: of a training step.
        peak: operations a second of one device at most; None where that is not known.
    """

    flops: float
    peak: float | None


class Reports:
    """Gathers what steps say of themselves, and reports it now and then.

    All processes call the methods; the first one writes.

    Args:
        parts: names of the losses. Where none is called ``loss``, that is their sum.
        sums: shape of what else is added up.
        metrics: made of it.
        work: None where it is not known what the devices can do.

    Attributes:
        trackers: see :class:`Tracker`.
        failure: why a line could not be written, on the first process.
    """

    def __init__(
        self,
        config: RunConfig,
        fabric: Fabric,
        folder: RunFolder,
        parts: Sequence[str],
        sums: tuple[int, ...],
        metrics: Callable[[Float[Tensor, "*sums"]], dict[str, float]],
        on_progress: Callable[[Progress], None] = lambda progress: None,
        work: Work | None = None,
    ) -> None:
        self._config, self._fabric, self._folder = config, fabric, folder
        self.trackers: Sequence[Tracker] = ()
        self.failure: WriteError | None = None
        self._on_progress, self._work = on_progress, work
        self._parts, self._metrics = parts, metrics
        self._losses = torch.zeros(len(parts), device=fabric.device)
        self._sums = torch.zeros(sums, device=fabric.device)
        self.start_clock(0)

    def start_clock(self, step: int) -> None:
        """The pace is that from here on."""
        self._timed, self._mark = step, time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done here does not count for the pace."""
        began = time.perf_counter()
        yield
        self._mark += time.perf_counter() - began

    def add(self, losses: Float[Tensor, " parts"], sums: Float[Tensor, "*sums"]) -> None:
        """Takes in a step that was not skipped."""
        self._losses += losses
        self._sums += sums

    def tensors(self) -> dict[str, Tensor]:
        """What was gathered since the last report, for a checkpoint: the same on all processes."""
        self._losses.copy_(self._reduced(self._losses))
        self._sums.copy_(self._reduced(self._sums))
        return {"report/losses": self._losses, "report/cells": self._sums}

    def training(self, at: Position, rate: float) -> None:
        """A line on the steps since the last one, and the progress."""
        totals, sums = self._reduced(self._losses).tolist(), self._reduced(self._sums)
        each = zip(self._parts, totals, strict=True)
        means = with_sum({name: total / at.counted for name, total in each}) if at.counted else {}
        _check_finite(means, at.step)
        now = time.perf_counter()
        pace = (at.step - self._timed) / (now - self._mark)  # 0 for a report that an earlier start of the run left off
        speed = pace * self._config.batch_size
        memory = peak_memory(self._fabric.device)
        mfu = (
            None
            if self._work is None
            else utilisation(self._work.flops * pace, self._work.peak, self._fabric.world_size)
        )
        line = {
            **means,
            "grad_norm": at.grad_norm,
            "learning_rate": rate,
            "skipped_steps": at.guard.skipped,
            **({"images_per_second": round(speed, 2)} if pace else {}),
            "peak_memory": memory,
            **({} if mfu is None else {"mfu": round(mfu, 4)}),
            "seconds": round(at.seconds, 3),
            **self._metrics(sums),
        }
        self.write(at.step, {name: value for name, value in line.items() if math.isfinite(value)})
        if self._fabric.is_global_zero:
            self._on_progress(
                Progress(
                    at.step,
                    self._config.steps,
                    means.get("loss", math.nan),
                    math.nan if at.last_loss is None else at.last_loss,
                    speed,
                    (self._config.steps - at.step) / pace if pace else math.nan,
                    means.get("error_nll"),
                    at.grad_norm,
                    at.guard.skipped,
                    memory,
                    mfu,
                )
            )
        self._losses.zero_()
        self._sums.zero_()
        at.counted = 0
        self.start_clock(at.step)

    def held_out(self, at: Position, found: HeldOut) -> None:
        """A line on an evaluation.

        Raises:
            DivergedError: it is not finite.
        """
        _check_finite(found.metrics(), at.step)
        at.last_loss, at.last_nll = found.loss, found.error_nll
        if at.first_loss is None:
            at.first_loss, at.first_nll = found.loss, found.error_nll
        self.write(at.step, found.metrics())

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line, on the first process. What keeps it from being written is kept in :attr:`failure`: the others go on
        to where all meet."""
        if self._fabric.is_global_zero:
            try:
                self._folder.log(step=step, **metrics)
            except WriteError as error:
                self.failure = error
            for tracker in self.trackers:
                tracker.log(step, metrics)

    def pictures(self, step: int, files: Mapping[str, Path]) -> None:
        """Pictures that were drawn, by name."""
        for tracker in self.trackers:
            for name, file in files.items():
                tracker.image(step, name, file)

    def check(self) -> None:
        """Raises :attr:`failure`, if there is one."""
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        """Nothing more is coming."""
        for tracker in self.trackers:
            tracker.close()

    def _reduced(self, values: Tensor) -> Tensor:
        """Means over all processes."""
        if self._fabric.world_size == 1:
            return values
        total = self._fabric.all_reduce(values.clone(), reduce_op="mean")
        assert isinstance(total, Tensor)
        return total


def with_sum(parts: Mapping[str, float]) -> dict[str, float]:
    """The parts of a loss and, where none of them has its name, the ``loss``: their sum."""
    return {"loss": sum(parts.values()), **parts}


def _check_finite(metrics: Mapping[str, float], step: int) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise DivergedError(f"{name} is {value} at step {step}: try a smaller learning rate")
