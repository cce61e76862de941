"""Training a model: what a run is made of, from where it goes on, and what it leaves."""

import contextlib
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from apd_models import DiT, DiTConfig, LatentScale, Patchify, save_pretrained

from ._averages import Ema
from ._batches import Batches
from ._config import TrainConfig
from ._data import ImageSet
from ._dry_run import most_levels
from ._execution import DEFAULT, Execution
from ._flops import peak_flops, training_flops
from ._grids import grids_of
from ._guard import Guard
from ._held_out import HeldOutLoss
from ._loop import Loop
from ._model import divided, make_model, make_optimizers
from ._parallel import local_batch, wrap
from ._position import Position, Progress
from ._processes import together
from ._reports import Reports, Work
from ._resume import Before, check_same, check_step
from ._run_folder import RunFolder, RunFolderError, writing
from ._step import LossModule
from ._trackers import tracker


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run leaves in memory.

    Args:
        model: with the averaged weights, in evaluation mode, on the CPU: where it was trained there may be no room
            for it until what trained it is gone.
        steps: done; fewer than asked for where the run was stopped.
        heldout_loss: of the averaged weights before the first step and at the last evaluation.
        heldout_error_nll: likewise, with an error head.
        stopped: the signal that ended the run, if one did.
        skipped_steps: left out, since their gradients were not finite.
    """

    model: DiT
    patchify: Patchify
    training: ImageSet
    held_out: ImageSet
    steps: int
    heldout_loss: tuple[float, float]
    heldout_error_nll: tuple[float, float] | None = None
    stopped: signal.Signals | None = None
    skipped_steps: int = 0


def say(message: str) -> None:
    """A line on stderr."""
    print(message, file=sys.stderr, flush=True)


def fit(
    config: TrainConfig,
    images: ImageSet,
    folder: RunFolder,
    fabric: Fabric,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    facts: Mapping[str, Any] = MappingProxyType({}),
    execution: Execution = DEFAULT,
    on_message: Callable[[str], None] = say,
) -> Trained:
    """Trains a model; writes its configuration, metrics, checkpoints and model folder.

    The folder is made, and an earlier run in it removed, only when all that can be checked has been. A folder that
    resumes goes on from its newest complete checkpoint: with the same number of processes, to the bit as if it had
    never stopped.

    SIGTERM, SIGUSR1 and SIGINT (Ctrl-C) on any process end training after the step, and evaluation and pictures at
    once, with a checkpoint; a second one ends the process.

    Args:
        images: all images; some of them are held out by content.
        folder: not made yet, or to be resumed.
        fabric: launched by the caller.
        on_progress: called on the first process, every ``log_every`` steps and after the last.
        facts: what else ``config.json`` is to say.
        execution: how the run is carried out.
        on_message: is told, on the first process, what a user should know: where the run goes on, which checkpoint is
            damaged, which tracker is off.

    Raises:
        ConfigError, DataError, RunFolderError: the run cannot start; nothing was written.
        CheckpointError: a checkpoint cannot be written; those before it are as they were.
        SnapshotError, WriteError: something else of the run cannot be written; likewise.
        DivergedError: losses or gradients became infinite or undefined.
    """
    make = lambda training, patchify: make_model(config, training, patchify)
    return train(make, config, images, folder, fabric, on_progress, facts, execution, on_message)


def train(
    make: Callable[[ImageSet, Patchify], DiT],
    config: TrainConfig,
    images: ImageSet,
    folder: RunFolder,
    fabric: Fabric,
    on_progress: Callable[[Progress], None],
    facts: Mapping[str, Any],
    execution: Execution,
    on_message: Callable[[str], None],
    weights: str = "{}",
) -> Trained:
    """:func:`fit`, of the parameters that are free in what ``make`` makes of the training images.

    Args:
        weights: what the model folder says of its weights, with a place for the average's name.
    """
    share = local_batch(config.batch_size, fabric.world_size)
    training, held_out, patchify = divided(config, images)
    batches = Batches(config, training, patchify)
    model = make(training, patchify)
    carried_out = _carried_out(execution, fabric)
    facts = {**facts, **_facts(config, images, held_out, model), **carried_out}
    before = _check_folder(folder, config, facts)
    if before is not None:  # images that are read elsewhere may differ by a rounding
        model.config = replace(model.config, data_std=before.data_std)
    tell = on_message if fabric.is_global_zero else say  # what only one process knows
    on_message = on_message if fabric.is_global_zero else lambda message: None

    compile, less_memory = execution.compile, execution.checkpoint_activations
    network = wrap(fabric, LossModule(model), compile=compile, checkpoint_activations=less_memory)
    ema = Ema(model, config.ema_sigma_rels)

    def write_model() -> None:
        average = ema.full(keep=fabric.is_global_zero)
        names, says, latents = training.class_names, weights.format(ema.describe()), training.latents
        together(lambda: _save(folder, _with_weights(model.config, average), patchify, names, says, latents))

    at = Position(Guard(config.max_skipped))
    parts = 1 if model.error is None else 2
    reports = Reports(config, fabric, folder, parts, on_progress, _work(config, model, fabric))
    loop = Loop(
        config,
        execution,
        fabric,
        folder,
        model,
        network,
        make_optimizers(config, model),  # of what the strategy has made of the parameters
        ema,
        batches,
        HeldOutLoss(config, held_out, patchify, min(execution.micro_batch or share, share)),
        None if execution.grid_every is None else grids_of(held_out, patchify, config.seed),
        reports,
        at,
        write_model,
        on_message,
        lambda problem: tell(f"{problem}; the next readable image of its class stands in"),
    )
    with contextlib.ExitStack() as stack:
        together(lambda: stack.enter_context(folder.held()))
        _take_place(loop, facts, before, carried_out)
        if fabric.is_global_zero:
            now = partial(tracker, folder=folder.path, facts=folder.record() or {}, first_step=at.step + 1)
            reports.trackers = [now(name, on_problem=on_message) for name in execution.trackers]
        stack.callback(reports.close)
        stopped = loop.run()
    nan = float("nan")
    return Trained(
        _with_weights(model.config, ema.full()),
        patchify,
        training,
        held_out,
        at.step,
        _both(at.first_loss, at.last_loss) or (nan, nan),
        _both(at.first_nll, at.last_nll),
        stopped,
        at.guard.skipped,
    )


def _check_folder(folder: RunFolder, config: TrainConfig, facts: Mapping[str, Any]) -> Before | None:
    """What matters of the run to go on with, if there is one; all processes get one answer, and one refusal."""

    def look() -> Before | None:
        folder.check()
        record = folder.record() if folder.resume else None
        return None if record is None else check_same(folder.path, record, config, facts)

    return together(look)


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
    changed = {name: getattr(config, name) for name in before.changed}
    together(lambda: _go_on(folder, at, {"changed": changed, **carried_out}))


def _with_weights(config: DiTConfig, weights: dict[str, Tensor]) -> DiT:
    with torch.device("meta"):
        model = DiT(config)
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def _save(
    folder: RunFolder,
    model: DiT,
    patchify: Patchify,
    names: tuple[str, ...],
    weights: str,
    latents: LatentScale | None,
) -> None:
    with writing(folder.model):
        save_pretrained(folder.model, model, patchify, names, weights, latents)


def _begin(folder: RunFolder, config: TrainConfig, facts: Mapping[str, Any]) -> None:
    folder.create()
    folder.write_config(config, facts)


def _go_on(folder: RunFolder, at: Position, facts: Mapping[str, Any]) -> None:
    folder.cut_metrics(at.metrics_size)
    folder.note_resumption(step=at.step, **facts)


def _work(config: TrainConfig, model: DiT, fabric: Fabric) -> Work | None:
    peak = peak_flops(fabric.device, fabric.strategy.precision.precision)
    if peak is None:
        return None
    levels = most_levels(config, model, config.batch_size)
    return Work(float(training_flops(model, config.batch_size, levels)), peak)


def _both(first: float | None, last: float | None) -> tuple[float, float] | None:
    return None if first is None or last is None else (first, last)


def _facts(config: TrainConfig, images: ImageSet, held_out: ImageSet, model: DiT) -> dict[str, Any]:
    return {
        "level_sampler": repr(config.levels(model.config.grid)),
        "images": len(images),
        "held_out": len(held_out),
        "class_names": list(images.class_names),
        "data_std": model.config.data_std,
        "skipped": list(images.skipped),
        **({} if images.latents is None else {"latents": asdict(images.latents)}),
    }


def _carried_out(execution: Execution, fabric: Fabric) -> dict[str, Any]:
    return {
        "execution": asdict(execution),
        "device": str(fabric.device),
        "devices": fabric.world_size,
        "strategy": type(fabric.strategy).__name__,
        "precision": fabric.strategy.precision.precision,
        "threads": torch.get_num_threads(),
    }
