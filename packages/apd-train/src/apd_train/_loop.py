"""One step after another, and what is due between them."""

import contextlib
import itertools
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import ModelParallelStrategy
from torch import nn
from torch.optim import Optimizer

from ._averages import Ema
from ._checkpoint import Checkpoint, CheckpointError, Checkpoints
from ._data import DataError
from ._execution import Execution
from ._gradients import accumulate, clip_gradients
from ._held_out import HeldOut
from ._loader import BatchSource, StepBatch, loader
from ._position import Position
from ._processes import ElsewhereError, together
from ._reports import Reports
from ._run_config import RunConfig
from ._run_folder import RunFolder, WriteError
from ._signals import Signals, Stopped
from ._snapshots import Snapshots
from ._state import RunState

VERSION = 1
"""Of what a checkpoint holds."""


T = TypeVar("T")
Draw = Callable[..., Mapping[str, Path]]
"""Draws pictures: see :func:`draw_grids`, without what it draws."""


class DataLostError(RuntimeError):
    """Data that could be read when a run began can be no longer. The message is one line."""


@dataclass(frozen=True, slots=True)
class Loop:
    """A run that can be left off after any step, and gone on with as if it had not been.

    All processes call the methods together.

    Args:
        model: what ``network`` trains, with the same parameters.
        network: as the processes train it together.
        at: where the run is; changed as it goes on.
        clipped, measure, draw: see :class:`Task`.
        write_model: writes the model folder, with the averaged weights.
        on_message: is told, on the first process, what a user should know.
        on_unreadable: is told, on each process, which of its images another one stands in for.
    """

    config: RunConfig
    execution: Execution
    fabric: Fabric
    folder: RunFolder
    model: nn.Module
    network: nn.Module
    optimizers: list[Optimizer]
    clipped: list[list[nn.Parameter]]
    ema: Ema
    batches: BatchSource[StepBatch]
    measure: Callable[[Callable[[], bool]], HeldOut]
    draw: Draw | None
    reports: Reports
    at: Position
    write_model: Callable[[], None]
    on_message: Callable[[str], None]
    on_unreadable: Callable[[str], None]

    def resume(self) -> Checkpoint | None:
        """Goes to the newest complete checkpoint; None where there is none.

        Raises:
            CheckpointError: it is of another model, or cannot be read.
        """
        found = self._checkpoints.newest(self.on_message)
        if found is not None:
            if found.facts.get("version") != VERSION:
                raise CheckpointError(f"{found.path} is of another version of apd-train: resume with that one")
            self._checkpoints.load(found, {**self._state.tensors(), **self.reports.tensors()})
            self._state.set_facts(found.facts["state"])
            self.at.take(found.facts["position"])
        return found

    def run(self) -> signal.Signals | None:
        """Trains up to the last step, or until a signal, which is returned.

        Raises:
            DivergedError: nothing is written; the checkpoint before stays.
        """
        began = time.perf_counter() - self.at.seconds
        self.reports.start_clock(self.at.step)
        with Signals() as signals, contextlib.ExitStack() as stack:
            stopped = self._settle(signals)
            if stopped is None and self.at.step == self.config.steps:
                self.save()  # the process may have ended between two of the files of its last save
            batches = loader(
                self.batches,
                self.fabric.global_rank,
                self.fabric.world_size,
                self.at.step,
                self.config.steps,
                self.execution.workers,
                self.fabric.device.type == "cuda",
                self.on_unreadable,
            )
            stack.enter_context(contextlib.closing(batches))
            batch, failure = self._next(batches)
            signals.agreed(self.fabric, failure)
            while stopped is None and self.at.step < self.config.steps:
                batch, stopped = self._learn(batch, batches, signals)
                self.at.seconds = time.perf_counter() - began
                stopped = stopped or self._settle(signals)
                if stopped or self._due(self.execution.checkpoint_every):
                    self.at.seconds = time.perf_counter() - began
                    self.save()
            if stopped is signal.SIGINT and self.at.step and not self.at.settled:
                # There is someone who wants to know; a second Ctrl-C ends it.
                found, _ = self._shared(signals, lambda should_stop: self._measured(lambda: False))
                self.reports.held_out(self.at, found)
        return stopped

    def save(self) -> None:
        """Writes a checkpoint, and the model as it is now.

        Raises:
            CheckpointError, WriteError: something cannot be written, or could not be since the last time; on the first
                process, elsewhere ElsewhereError.
        """
        with self.reports.paused():
            together(self.reports.check)  # a line that could not be written is not sealed
            self.at.metrics_size = together(self.folder.metrics_size)
            facts = {"version": VERSION, "position": self.at.facts(), "state": self._state.facts()}
            self._checkpoints.save(self.at.step, {**self._state.tensors(), **self.reports.tensors()}, facts)
            self.write_model()

    @property
    def _state(self) -> RunState:
        return RunState(self.model, self.optimizers, self.ema)

    @property
    def _checkpoints(self) -> Checkpoints:
        return Checkpoints(self.folder.checkpoints, self.execution.keep_last, self.execution.keep_every)

    def _next(self, batches: Iterator[StepBatch]) -> tuple[StepBatch | None, Exception | None]:
        """The next batch, or none after the last; or why it cannot be had."""
        try:
            return next(batches, None), None
        except Exception as error:
            return None, _lost(error)

    def _due(self, every: int | None) -> bool:
        """Whether what is done every so many steps, and after the last, is due; what never is done is not."""
        return every is not None and (self.at.step % every == 0 or self.at.step == self.config.steps)

    def _learn(
        self, batch: StepBatch | None, batches: Iterator[StepBatch], signals: Signals
    ) -> tuple[StepBatch | None, signal.Signals | None]:
        """One step, or one that is skipped since its gradient is not finite.

        The next batch is taken while a GPU is at work, and whether all go on is asked where the processes wait for the
        norms of the gradients anyway: so a failure on one of them is known to all before they wait for it.

        Returns:
            The next batch, and the signal after which there is to be no other step.
        """
        assert batch is not None
        at = self.at
        rate = self.config.rate(at.step)
        for group in itertools.chain.from_iterable(optimizer.param_groups for optimizer in self.optimizers):
            group["lr"] = rate
        losses, sums = accumulate(
            self.fabric, self.network, self.fabric.to_device(batch.tensors), self.execution.micro_batch
        )
        following, failure = self._next(batches)
        norms = clip_gradients(self.clipped, self.config.clip_norm)
        try:
            stopped = signals.agreed(self.fabric, failure or self.reports.failure)
        except Exception:  # on all processes, and before anything has changed
            self._save_what_was_learned()
            raise
        at.guard = at.guard.next(at.step + 1, norms)
        if not at.guard.skips:
            for optimizer in self.optimizers:
                optimizer.step()
            self.ema.update(self.model)
            self.reports.add(losses, sums)
            at.counted += 1
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        at.step, at.settled, at.grad_norm = at.step + 1, False, norms[0]
        return following, stopped

    def _settle(self, signals: Signals) -> signal.Signals | None:
        """Does what is due after this step, and has not been done before; or the signal that came meanwhile."""
        if self.at.settled:
            return None
        with self.reports.paused():
            if self.ema.steps and self._due(self.execution.snapshot_every):
                Snapshots(self.folder.averages).save(self.ema, self.at.step)
            try:
                if self.draw is not None and self.at.step and self._due(self.execution.grid_every):
                    self._draw(self.draw, signals)
                # After what may be done twice and changes nothing; a line of metrics may not.
                if self._due(self.config.evaluate_every):
                    found, _ = self._shared(signals, self._measured)
                    self.reports.held_out(self.at, found)
            except Stopped:
                return signals.agreed(self.fabric)
        if self.at.step and self._due(self.config.log_every):
            self.reports.training(self.at, self.config.rate(self.at.step - 1))
        self.at.settled = True
        return None

    def _measured(self, should_stop: Callable[[], bool]) -> HeldOut:
        with self._averaged():
            return self.measure(should_stop)

    def _draw(self, draw: Draw, signals: Signals) -> None:
        def pictures(should_stop: Callable[[], bool]) -> Mapping[str, Path]:
            with self._averaged():
                return draw(
                    self.folder.grids,
                    self.at.step,
                    should_stop,
                    write=self.fabric.is_global_zero,
                    on_problem=self.on_message,
                )

        files, stopped = self._shared(signals, pictures)
        if stopped:
            raise Stopped
        self.reports.pictures(self.at.step, files)

    def _shared(self, signals: Signals, work: Callable[[Callable[[], bool]], T]) -> tuple[T, signal.Signals | None]:
        """What work gives in which all processes ask now and then whether to stop, and the signal that came meanwhile.

        What keeps one process from it ends the run on all, after a checkpoint; but where the network itself makes the
        processes wait for each other (FSDP2), it ends that process, and its launcher the others.
        """
        try:
            try:
                found = work(signals.checked(self.fabric))
            except (Stopped, ElsewhereError):
                raise
            except Exception as error:
                failure = _lost(error)
                if isinstance(self.fabric.strategy, ModelParallelStrategy):
                    raise failure from error
                signals.agreed(self.fabric, failure)  # the others are asking, or at the end
                raise
            return found, signals.agreed(self.fabric)
        except Stopped:
            raise
        except Exception:
            if not isinstance(self.fabric.strategy, ModelParallelStrategy):
                self._save_what_was_learned()
            raise

    def _save_what_was_learned(self) -> None:
        """As far as it can be written, since the run ends with another failure."""
        if self.at.step:
            with contextlib.suppress(CheckpointError, WriteError, ElsewhereError):
                self.save()

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The model with the averaged weights, its blocks not compiled anew for batches of other shapes."""
        with self.ema.lent(self.model), torch.compiler.set_stance("force_eager"):
            yield


def _lost(error: Exception) -> Exception:
    """What keeps a run that has begun from going on."""
    return DataLostError(" ".join(str(error).split())) if isinstance(error, DataError) else error
