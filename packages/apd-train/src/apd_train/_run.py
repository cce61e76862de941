"""A run, whatever it trains: from where it goes on, that it is carried out, and what it leaves."""

import contextlib
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from ._averages import Ema
from ._execution import Execution
from ._guard import Guard
from ._held_out import HeldOut
from ._loader import BatchSource, StepBatch
from ._loop import Draw, Loop
from ._position import Position, Progress
from ._processes import together
from ._reports import Reports, Work
from ._resume import Before, check_same, check_step
from ._run_config import RunConfig
from ._run_folder import RunFolder, RunFolderError, writing
from ._trackers import tracker


@dataclass(frozen=True, slots=True)
class Task:
    """What a run trains, measures, shows and keeps: all of it that is not about steps.

    Args:
        model: what is trained.
        wrapped: puts the model, with its losses around it, on the device, as the processes train it together.
        optimizers: makes them, of what ``wrapped`` has made of the parameters.
        clipped: likewise the groups of parameters whose gradients are clipped each by itself.
        batches: of each step.
        measure: the held-out loss of the model as it is; asks now and then whether to stop, and raises ``Stopped``.
        draw: pictures of the model as it is; None for none.
        parts: names of the losses, see :class:`Reports`.
        sums: shape of what is added up besides.
        metrics: made of it.
        work: see :class:`Reports`.
        save: writes the model folder, given averaged weights and what they are.
    """

    config: RunConfig
    model: nn.Module
    wrapped: Callable[[], nn.Module]
    optimizers: Callable[[], list[Optimizer]]
    clipped: Callable[[], list[list[nn.Parameter]]]
    batches: BatchSource[StepBatch]
    measure: Callable[[Callable[[], bool]], HeldOut]
    draw: Draw | None
    parts: Sequence[str]
    sums: tuple[int, ...]
    metrics: Callable[[Float[Tensor, "*sums"]], dict[str, float]]
    work: Work | None
    save: Callable[[dict[str, Tensor], str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a run has come.

    Args:
        weights: averaged.
        stopped: the signal that ended the run, if one did.
    """

    weights: dict[str, Tensor]
    at: Position
    stopped: signal.Signals | None

    @property
    def heldout_loss(self) -> tuple[float, float]:
        """Before the first step and at the last evaluation."""
        nan = float("nan")
        return _both(self.at.first_loss, self.at.last_loss) or (nan, nan)

    @property
    def heldout_error_nll(self) -> tuple[float, float] | None:
        return _both(self.at.first_nll, self.at.last_nll)


def say(message: str) -> None:
    """A line on stderr."""
    print(message, file=sys.stderr, flush=True)


def look(folder: RunFolder, config: RunConfig, facts: Mapping[str, Any]) -> Before | None:
    """What matters of the run to go on with, if there is one; all processes get one answer, and one refusal.

    Raises:
        ConfigError, RunFolderError: the run cannot begin or go on; nothing was written.
    """

    def act() -> Before | None:
        folder.check()
        record = folder.record() if folder.resume else None
        return None if record is None else check_same(folder.path, record, config, facts)

    return together(act)


def carry_out(
    task: Task,
    folder: RunFolder,
    fabric: Fabric,
    before: Before | None,
    facts: Mapping[str, Any],
    execution: Execution,
    on_progress: Callable[[Progress], None],
    on_message: Callable[[str], None],
) -> Outcome:
    """Trains to the end, or to a signal.

    Args:
        before: what :func:`look` said.
        facts: what else ``config.json`` is to say.
    """
    config, model = task.config, task.model
    tell = on_message if fabric.is_global_zero else say  # what only one process knows
    on_message = on_message if fabric.is_global_zero else lambda message: None
    network = task.wrapped()
    ema = Ema(model, config.ema_sigma_rels)

    def write_model() -> None:
        average = ema.full(keep=fabric.is_global_zero)

        def write() -> None:
            with writing(folder.model):
                task.save(average, ema.describe())

        together(write)

    at = Position(Guard(config.max_skipped))
    reports = Reports(config, fabric, folder, task.parts, task.sums, task.metrics, on_progress, task.work)
    loop = Loop(
        config,
        execution,
        fabric,
        folder,
        model,
        network,
        task.optimizers(),
        task.clipped(),
        ema,
        task.batches,
        task.measure,
        task.draw,
        reports,
        at,
        write_model,
        on_message,
        lambda problem: tell(f"{problem}; the next readable image of its class stands in"),
    )
    carried_out = how(execution, fabric)
    with contextlib.ExitStack() as stack:
        together(lambda: stack.enter_context(folder.held()))
        _take_place(loop, {**facts, **carried_out}, before, carried_out)
        if fabric.is_global_zero:
            now = partial(tracker, folder=folder.path, facts=folder.record() or {}, first_step=at.step + 1)
            reports.trackers = [now(name, on_problem=on_message) for name in execution.trackers]
        stack.callback(reports.close)
        stopped = loop.run()
    return Outcome(ema.full(), at, stopped)


def how(execution: Execution, fabric: Fabric) -> dict[str, Any]:
    """How a run is carried out, for its record."""
    return {
        "execution": asdict(execution),
        "device": str(fabric.device),
        "devices": fabric.world_size,
        "strategy": type(fabric.strategy).__name__,
        "precision": fabric.strategy.precision.precision,
        "threads": torch.get_num_threads(),
    }


def _take_place(loop: Loop, facts: Mapping[str, Any], before: Before | None, carried_out: Mapping[str, Any]) -> None:
    """Goes to where the run that is there has come, or begins one."""
    folder, config, at, say = loop.folder, loop.config, loop.at, loop.on_message
    checkpoint = None if before is None else loop.resume()
    if before is None or checkpoint is None:
        if before is None and folder.resume:
            say(f"there is no run in {folder.path} yet: beginning one")
        if before is not None:
            if together(folder.has_learned):
                raise RunFolderError(
                    f"{folder.path} has no complete checkpoint, but had one: put it back into {folder.checkpoints}, or "
                    "begin anew with --overwrite"
                )
            say(f"{folder.path} was stopped before its first checkpoint: beginning at step 0")
        together(lambda: _begin(folder, config, facts))
        return
    check_step(folder.path, at.step, config)
    say(f"resuming from {checkpoint.path}, step {at.step} of {config.steps}")
    for name, value in before.changed.items():
        say(f"from step {at.step + 1} on with {name} {getattr(config, name)}, which was {value}")
    if before.decoded_otherwise:
        say("the images differ by a rounding from those before, so others of them are held out from now on")
    changed = {name: getattr(config, name) for name in before.changed}
    now = {"data_sha256": facts["data_sha256"]} if before.decoded_otherwise else {}
    together(lambda: _go_on(folder, at, {"changed": changed, **now, **carried_out}))


def _begin(folder: RunFolder, config: RunConfig, facts: Mapping[str, Any]) -> None:
    folder.create()
    folder.write_config(config, facts)


def _go_on(folder: RunFolder, at: Position, facts: Mapping[str, Any]) -> None:
    folder.cut_metrics(at.metrics_size)
    folder.cut_files(at.step)
    folder.note_resumption(step=at.step, **facts)


def _both(first: float | None, last: float | None) -> tuple[float, float] | None:
    return None if first is None or last is None else (first, last)
