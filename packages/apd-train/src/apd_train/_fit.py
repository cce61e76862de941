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

from apd_models import DiT, DiTConfig, Patchify, save_pretrained
from apd_samplers import Draw, loss
from apd_schedules import NoiseMap

from ._batches import Batches, training_draws
from ._config import ConfigError, TrainConfig
from ._data import ImageSet, hold_out
from ._ema import Ema
from ._interrupt import Interrupt
from ._random import generator
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
    """

    step: int
    steps: int
    loss: float
    heldout_loss: float
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run leaves in memory.

    Args:
        model: with the averaged weights, in evaluation mode.
        steps: done; fewer than asked for where the run was interrupted.
        heldout_loss: of the averaged weights before the first and after the last step.
    """

    model: DiT
    patchify: Patchify
    training: ImageSet
    held_out: ImageSet
    steps: int
    heldout_loss: tuple[float, float]


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
    if config.batch_size % fabric.world_size:
        raise ConfigError(
            f"batch_size {config.batch_size} cannot be divided among {fabric.world_size} devices: choose a multiple"
        )
    training, held_out = hold_out(images, max(1, min(config.held_out, len(images) // 20)))
    patchify = Patchify(config.image_size, config.image_size, images.channels, config.patch)
    model = make_model(config, training, patchify).to(fabric.device)
    batches = Batches(config, training, patchify)
    ema = Ema(model, config.ema_sigma_rel)
    network, *optimizers = fabric.setup(LossModule(model), *make_optimizers(config, model))
    measure = HeldOutLoss(config, held_out, patchify)
    first = last = measure(ema.model)
    _start_folder(folder, config, {**facts, **_facts(config, images, held_out, patchify, fabric)}, fabric)
    log = folder.log if fabric.is_global_zero else lambda **metrics: None
    log(step=0, heldout_loss=first)

    seen = torch.zeros((), device=fabric.device)
    start = mark = time.perf_counter()
    logged = 0
    with Interrupt() as interrupt:
        for step in range(1, config.steps + 1):
            rate = config.rate(step - 1)
            for group in itertools.chain.from_iterable(optimizer.param_groups for optimizer in optimizers):
                group["lr"] = rate
            batch = batches(step - 1, fabric.global_rank, fabric.world_size)
            tensors = (batch.x, batch.eps, batch.draw.noise.log_snr, batch.draw.weight, batch.label)
            value = network(*fabric.to_device(tensors))
            fabric.backward(value)
            norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)  # over both optimizers' parameters
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            ema.update(model)
            seen += value.detach()

            # All processes agree to stop where they meet anyway; a single one need not wait for that.
            due = step % config.log_every == 0 or step == config.steps
            stop = interrupt.asked and fabric.world_size == 1
            if due and fabric.world_size > 1:
                stop = _reduce(fabric, torch.tensor(float(interrupt.asked), device=fabric.device)) > 0
            ends = stop or step == config.steps
            if ends or step % config.evaluate_every == 0:
                paused = time.perf_counter()
                last = _finite(measure(ema.model), step)
                log(step=step, heldout_loss=last)
                mark += time.perf_counter() - paused
            if ends or due:
                now = time.perf_counter()
                mean = _finite(_reduce(fabric, seen) / (step - logged), step)
                pace = (step - logged) / (now - mark)
                speed = pace * config.batch_size
                log(
                    step=step,
                    loss=mean,
                    grad_norm=float(norm),
                    learning_rate=rate,
                    images_per_second=round(speed, 2),
                    seconds=round(now - start, 3),
                )
                if fabric.is_global_zero:
                    left = 0.0 if stop else (config.steps - step) / pace
                    on_progress(Progress(step, config.steps, mean, last, speed, left))
                seen.zero_()
                logged, mark = step, now
            if stop:
                break
    if fabric.is_global_zero:
        save_pretrained(folder.model, ema.model, patchify, training.class_names, str(ema))
    return Trained(ema.model, patchify, training, held_out, ema.steps, (first, last))


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


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise DivergedError(f"the loss is {loss} at step {step}: try a smaller learning rate")
    return loss


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


def _reduce(fabric: Fabric, value: Tensor) -> float:
    """The mean of a scalar over all processes."""
    total = fabric.all_reduce(value.clone(), reduce_op="mean")
    assert isinstance(total, Tensor)
    return total.item()


def make_model(config: TrainConfig, images: ImageSet, patchify: Patchify) -> DiT:
    """A model for these images, its initial weights a function of the seed."""
    some = images.squares(range(0, len(images), max(1, len(images) // 1000)))
    shape = DiTConfig(
        patchify.grid,
        patchify.token_dim,
        config.width,
        config.depth,
        config.heads,
        classes=len(images.class_names),
        data_std=max(round(float(some.square().mean().sqrt()), 3), 1e-3),
    )
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(generator(config.seed, "weights").initial_seed())
        return DiT(shape)


def make_optimizers(config: TrainConfig, model: DiT) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for all else: embeddings, modulation, head, gains and biases.

    Muon (Jordan et al. 2024) steps along the orthogonalised momentum. Scaled to the root mean square of AdamW's steps
    (Liu et al. 2025, arXiv:2502.16982) it shares AdamW's learning rate. What it is worth: docs/design.md.
    """
    named = model.blocks.named_parameters()
    matrices = [p for name, p in named if p.ndim == 2 and "modulation" not in name]
    chosen = {id(p) for p in matrices}
    linear = [m.weight for m in model.modules() if isinstance(m, nn.Linear) and id(m.weight) not in chosen]
    chosen |= {id(p) for p in linear}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    groups = [{"params": linear, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    muon = torch.optim.Muon(
        matrices,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return muon, torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


class HeldOutLoss:
    """The training loss on held-out images, with labels and with noise and levels that never change.

    They do not even depend on the run's seed, so the numbers of two runs with one law of levels can be compared.
    """

    def __init__(self, config: TrainConfig, images: ImageSet, patchify: Patchify) -> None:
        self._x = patchify.to_tokens(images.squares())
        self._eps = torch.randn(self._x.shape, generator=generator(0, "held-out noise"))
        self._label = images.labels if images.class_names else None
        self._draw = training_draws(config, patchify.grid)(len(images), generator(0, "held-out levels"))
        self._chunk = config.batch_size

    @torch.no_grad()
    def __call__(self, model: DiT) -> float:
        device = model.device
        total = 0.0
        for i in range(0, len(self._x), self._chunk):
            rows = slice(i, i + self._chunk)
            draw = Draw(NoiseMap(self._draw.noise.log_snr[rows].to(device)), self._draw.weight[rows].to(device))
            label = None if self._label is None else self._label[rows].to(device)
            x, eps = self._x[rows].to(device), self._eps[rows].to(device)
            total += float(loss(model, x, draw, eps, label=label).sum())
        return total / self._x.numel()
