"""Training a model: what a run is made of, from where it goes on, and what it leaves."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from apd_models import DiT, DiTConfig, Patchify, Pretrained, save_pretrained

from ._batches import Batches
from ._config import TrainConfig
from ._data import ImageSet, fingerprints
from ._dry_run import most_levels
from ._execution import DEFAULT, Execution
from ._flops import peak_flops, training_flops
from ._grids import draw_grids, grids_of
from ._held_out import HeldOutLoss
from ._model import clipped_apart, data_std, divided, make_model, make_optimizers
from ._parallel import local_batch, wrap
from ._position import Progress
from ._reports import Work
from ._resume import said_of
from ._run import Task, carry_out, look, say
from ._run_folder import RunFolder
from ._start import start_of, to_go_on_with
from ._step import LossModule
from ._watch import LEVEL_BINS, SPREAD_BINS, metrics_of


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


def fit(
    config: TrainConfig,
    images: ImageSet,
    folder: RunFolder,
    fabric: Fabric,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    facts: Mapping[str, Any] = MappingProxyType({}),
    execution: Execution = DEFAULT,
    on_message: Callable[[str], None] = say,
    start: Pretrained | None = None,
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
        start: a trained model, whose weights the run begins with (fine-tuning); it is not changed. The configuration
            says of it what it is; classes of the images are the model's, by name; ``data_std`` stays the model's.
            Optimizers and averages begin anew. A run that resumes is given the same one.

    Raises:
        ConfigError, DataError, RunFolderError: the run cannot start; nothing was written.
        CheckpointError: a checkpoint cannot be written; those before it are as they were.
        SnapshotError, WriteError: something else of the run cannot be written; likewise.
        DivergedError: losses or gradients became infinite or undefined.
    """
    given = folder, fabric, on_progress
    if start is None:
        return train(partial(make_model, config), config, images, *given, facts, execution, on_message)
    facts = {**facts, "start_weights": start.weights, "start_sha256": start.digest}
    make = lambda training, patchify, std: start_of(start, config)
    weights = f"{{}}, from ({braced(start.weights)})"
    return train(make, config, to_go_on_with(start, images), *given, facts, execution, on_message, weights)


def train(
    make: Callable[[ImageSet, Patchify, float], DiT],
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
    """:func:`fit`, of the parameters that are free in what ``make`` makes.

    Args:
        make: given the training images, how they become tokens, and what to take their standard deviation for.
        weights: what the model folder says of its weights, with a place for the average's name.
    """
    share = local_batch(config.batch_size, fabric.world_size)
    training, held_out, patchify = divided(config, images)
    batches, std = Batches(config, training, patchify), data_std(training)
    facts = {**facts, **_facts(config, images, held_out, patchify, std)}
    before = look(folder, config, facts)
    # Images that are read elsewhere may differ by a rounding.
    model = make(training, patchify, std if before is None else before.data_std)

    def save(average: dict[str, Tensor], described: str) -> None:
        names, latents, said = training.class_names, training.latents, weights.format(described)
        averaged = _with_weights(model.config, average)
        save_pretrained(folder.model, averaged, patchify, names, said, latents, training.codec)

    compile, less_memory = execution.compile, execution.checkpoint_activations
    measure = HeldOutLoss(config, held_out, patchify, min(execution.micro_batch or share, share))
    grids = None if execution.grid_every is None else grids_of(held_out, patchify, config.seed, fabric.device)
    task = Task(
        config,
        model,
        lambda: wrap(fabric, LossModule(model), compile=compile, checkpoint_activations=less_memory),
        lambda: make_optimizers(config, model),
        lambda: clipped_apart(model),
        batches,
        partial(measure, model),
        None if grids is None else partial(draw_grids, grids, model),
        ("loss",) if model.error is None else ("loss", "error_nll"),
        (2, LEVEL_BINS + SPREAD_BINS),
        metrics_of,
        _work(config, model, fabric),
        save,
    )
    done = carry_out(task, folder, fabric, before, facts, execution, on_progress, on_message)
    return Trained(
        _with_weights(model.config, done.weights),
        patchify,
        training,
        held_out,
        done.at.step,
        done.heldout_loss,
        done.heldout_error_nll,
        done.stopped,
        done.at.guard.skipped,
    )


def braced(text: str) -> str:
    """For :meth:`str.format` to give back."""
    return text.replace("{", "{{").replace("}", "}}")


def _with_weights(config: DiTConfig, weights: dict[str, Tensor]) -> DiT:
    with torch.device("meta"):
        model = DiT(config)
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def _work(config: TrainConfig, model: DiT, fabric: Fabric) -> Work | None:
    peak = peak_flops(fabric.device, fabric.strategy.precision.precision)
    if peak is None:
        return None
    levels = most_levels(config, model, config.batch_size)
    return Work(float(training_flops(model, config.batch_size, levels)), peak)


def _facts(config: TrainConfig, images: ImageSet, held_out: ImageSet, patchify: Patchify, std: float) -> dict[str, Any]:
    return {
        "level_sampler": repr(config.levels(patchify.grid)),
        "images": len(images),
        "held_out": len(held_out),
        **fingerprints(images),
        "class_names": list(images.class_names),
        "data_std": std,
        "skipped": list(images.skipped),
        **({} if images.latents is None else {"latents": said_of(images.latents)}),
    }
