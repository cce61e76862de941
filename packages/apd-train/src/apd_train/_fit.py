"""The training loop."""

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from apd_models import DiT, Patchify, save_pretrained

from ._batches import Batches
from ._config import ConfigError, TrainConfig
from ._data import ImageSet, hold_out
from ._ema import Ema
from ._held_out import HeldOutLoss
from ._interrupt import Interrupt
from ._model import clipped_apart, make_model, make_optimizers
from ._run_folder import RunFolder, RunFolderError
from ._step import LossModule


class DivergedError(RuntimeError):
    """The loss is not finite."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands.

    Args:
        step: steps done, of ``steps``.
        loss: mean training loss since the last report.
        heldout_loss: of the averaged weights, at the last evaluation.
        images_per_second: since the last report, over all devices.
        seconds_left: at that pace.
        error_nll: mean negative log-likelihood of the errors since the last report, with an error head.
    """

    step: int
    steps: int
    loss: float
    heldout_loss: float
    images_per_second: float
    seconds_left: float
    error_nll: float | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run leaves in memory.

    Args:
        model: with the averaged weights, in evaluation mode.
        steps: done; fewer than asked for where the run was interrupted.
        heldout_loss: of the averaged weights before the first and after the last step.
        heldout_error_nll: likewise, with an error head.
    """

    model: DiT
    patchify: Patchify
    training: ImageSet
    held_out: ImageSet
    steps: int
    heldout_loss: tuple[float, float]
    heldout_error_nll: tuple[float, float] | None = None


def fit(
    config: TrainConfig,
    images: ImageSet,
    folder: RunFolder,
    fabric: Fabric,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> Trained:
    """Trains a model; writes its configuration, its metrics and its model folder.

    The folder is made, and an earlier run in it removed, only when all that can be checked has been. An interrupt
    (Ctrl-C) ends training after the step, with several processes at the next report; what was learned is kept.

    Args:
        images: all images; some of them are held out by content.
        folder: not made yet.
        fabric: launched by the caller.
        on_progress: called on the first process, every ``log_every`` steps and after the last.
        facts: what else ``config.json`` is to say.

    Raises:
        ConfigError, DataError, RunFolderError: the run cannot start; nothing was written.
        DivergedError: the loss became infinite or undefined.
    """
    make = lambda training, patchify: make_model(config, training, patchify)
    return train(make, config, images, folder, fabric, on_progress, facts)


def train(
    make: Callable[[ImageSet, Patchify], DiT],
    config: TrainConfig,
    images: ImageSet,
    folder: RunFolder,
    fabric: Fabric,
    on_progress: Callable[[Progress], None],
    facts: Mapping[str, Any],
    weights: str = "{}",
) -> Trained:
    """:func:`fit`, of the parameters that are free in what ``make`` makes of the training images.

    Args:
        weights: what the model folder says of its weights, with a place for the average's name.
    """
    if config.batch_size % fabric.world_size:
        raise ConfigError(
            f"batch_size {config.batch_size} cannot be divided among {fabric.world_size} devices: choose a multiple"
        )
    training, held_out = hold_out(images, max(1, min(config.held_out, len(images) // 20)))
    patchify = Patchify(config.image_size, config.image_size, images.channels, config.patch)
    model = make(training, patchify).to(fabric.device)
    batches = Batches(config, training, patchify)
    ema = Ema(model, config.ema_sigma_rel)
    network, *optimizers = fabric.setup(LossModule(model), *make_optimizers(config, model))
    groups = clipped_apart(model)
    measure = HeldOutLoss(config, held_out, patchify)
    first = last = measure(ema.model)
    _start_folder(folder, config, {**facts, **_facts(config, images, held_out, patchify, fabric)}, fabric)
    log = folder.log if fabric.is_global_zero else lambda **metrics: None
    log(step=0, **first.metrics())

    seen = torch.zeros(1 if model.error is None else 2, device=fabric.device)
    start = mark = time.perf_counter()
    logged = 0
    with Interrupt() as interrupt:
        for step in range(1, config.steps + 1):
            rate = config.rate(step - 1)
            for group in itertools.chain.from_iterable(optimizer.param_groups for optimizer in optimizers):
                group["lr"] = rate
            batch = batches(step - 1, fabric.global_rank, fabric.world_size)
            tensors = (batch.x, batch.eps, batch.draw.noise.log_snr, batch.draw.weight, batch.label)
            values = network(*fabric.to_device(tensors))
            fabric.backward(values.sum())
            norm, *_ = [nn.utils.clip_grad_norm_(group, config.clip_norm) for group in groups]  # not by optimizer
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            ema.update(model)
            seen += values.detach()

            # All processes agree to stop where they meet anyway; a single one need not wait for that.
            due = step % config.log_every == 0 or step == config.steps
            stop = interrupt.asked and fabric.world_size == 1
            if due and fabric.world_size > 1:
                stop = _reduce(fabric, torch.tensor([float(interrupt.asked)], device=fabric.device))[0] > 0
            ends = stop or step == config.steps
            if ends or step % config.evaluate_every == 0:
                paused = time.perf_counter()
                last = measure(ema.model)
                _check_finite(last.metrics(), step)
                log(step=step, **last.metrics())
                mark += time.perf_counter() - paused
            if ends or due:
                now = time.perf_counter()
                sums = zip(("loss", "error_nll"), _reduce(fabric, seen), strict=False)
                means = {name: total / (step - logged) for name, total in sums}
                _check_finite(means, step)
                pace = (step - logged) / (now - mark)
                speed = pace * config.batch_size
                log(
                    step=step,
                    **means,
                    grad_norm=float(norm),
                    learning_rate=rate,
                    images_per_second=round(speed, 2),
                    seconds=round(now - start, 3),
                )
                if fabric.is_global_zero:
                    left = 0.0 if stop else (config.steps - step) / pace
                    now_at = Progress(step, config.steps, means["loss"], last.loss, speed, left, means.get("error_nll"))
                    on_progress(now_at)
                seen.zero_()
                logged, mark = step, now
            if stop:
                break
    if fabric.is_global_zero:
        save_pretrained(folder.model, ema.model, patchify, training.class_names, weights.format(ema))
    nll = None if first.error_nll is None or last.error_nll is None else (first.error_nll, last.error_nll)
    return Trained(ema.model, patchify, training, held_out, ema.steps, (first.loss, last.loss), nll)


def _start_folder(folder: RunFolder, config: TrainConfig, facts: Mapping[str, Any], fabric: Fabric) -> None:
    """Makes the folder on the first process; if that fails, fails on all."""
    problem = None
    if fabric.is_global_zero:
        try:
            folder.create()
            folder.write_config(config, facts)
        except RunFolderError as error:
            problem = str(error)
    problem = fabric.broadcast(problem)
    if problem is not None:
        raise RunFolderError(problem)


def _check_finite(metrics: Mapping[str, float], step: int) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise DivergedError(f"{name} is {value} at step {step}: try a smaller learning rate")


def _facts(
    config: TrainConfig, images: ImageSet, held_out: ImageSet, patchify: Patchify, fabric: Fabric
) -> dict[str, Any]:
    return {
        "level_sampler": repr(config.levels(patchify.grid)),
        "images": len(images),
        "held_out": len(held_out),
        "class_names": list(images.class_names),
        "skipped": list(images.skipped),
        "device": str(fabric.device),
        "devices": fabric.world_size,
        "precision": fabric.strategy.precision.precision,
        "threads": torch.get_num_threads(),
    }


def _reduce(fabric: Fabric, values: Tensor) -> list[float]:
    """Their means over all processes."""
    total = fabric.all_reduce(values.clone(), reduce_op="mean")
    assert isinstance(total, Tensor)
    return total.tolist()
