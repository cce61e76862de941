"""The training loop."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from apd_models import DiT, DiTConfig, Patchify, save_pretrained
from apd_samplers import Draw, loss, snap, weighted
from apd_schedules import NoiseMap

from ._batches import Batches
from ._config import ConfigError, TrainConfig
from ._data import ImageSet, hold_out
from ._ema import Ema
from ._random import generator
from ._run_folder import RunFolder
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
) -> Trained:
    """Trains a model and writes its metrics and its model folder.

    An interrupt (Ctrl-C) ends training after the current step; what was learned until then is kept.

    Args:
        images: all images; some of them are held out by content.
        folder: created by the caller.
        fabric: launched by the caller.
        on_progress: called on the first process, every ``log_every`` steps and after the last.

    Raises:
        DataError: too few images.
        DivergedError: the loss became infinite or undefined.
    """
    if config.batch_size % fabric.world_size:
        raise ConfigError(
            f"batch_size {config.batch_size} cannot be divided among {fabric.world_size} devices: choose a multiple"
        )
    training, held_out = hold_out(images, max(1, min(config.held_out, len(images) // 20)))
    patchify = Patchify(config.image_size, config.image_size, images.channels, config.patch)
    model = make_model(config, training, patchify)
    batches = Batches(config, training, patchify)
    ema = Ema(model.to(fabric.device), config.ema_sigma_rel)
    network, optimizer = fabric.setup(LossModule(model), make_optimizer(config, model))
    measure = HeldOutLoss(config, held_out, patchify)
    first = last = measure(ema.model)
    writes = fabric.is_global_zero
    if writes:
        folder.log(step=0, heldout_loss=first)

    seen = torch.zeros((), device=fabric.device)
    start = mark = time.perf_counter()
    step = logged = 0
    try:
        for step in range(1, config.steps + 1):
            rate = config.rate(step - 1)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = batches(step - 1, fabric.global_rank, fabric.world_size)
            tensors = (batch.x, batch.eps, batch.draw.noise.log_snr, batch.draw.weight, batch.label)
            value = network(*fabric.to_device(tensors))
            fabric.backward(value)
            norm = fabric.clip_gradients(network, optimizer, max_norm=config.clip_norm, error_if_nonfinite=False)
            optimizer.step()
            optimizer.zero_grad()
            ema.update(model)
            seen += value.detach()
            if step % config.log_every == 0 or step == config.steps:
                mean = _mean(fabric, seen) / (step - logged)
                if not math.isfinite(mean):
                    raise DivergedError(f"the loss is {mean} at step {step}: try a smaller learning rate")
                now = time.perf_counter()
                pace = (step - logged) / (now - mark)
                if step % config.evaluate_every == 0 or step == config.steps:
                    last = measure(ema.model)
                    if writes:
                        folder.log(step=step, heldout_loss=last)
                if writes:
                    speed = pace * config.batch_size
                    folder.log(
                        step=step,
                        loss=mean,
                        grad_norm=float(norm) if norm is not None else 0.0,
                        learning_rate=rate,
                        images_per_second=round(speed, 2),
                        seconds=round(now - start, 3),
                    )
                    left = (config.steps - step) / pace
                    on_progress(Progress(step, config.steps, mean, last, speed, left))
                seen.zero_()
                logged, mark = step, time.perf_counter()
    except KeyboardInterrupt:
        if ema.steps == 0:
            raise
        last = measure(ema.model)
    if writes:
        save_pretrained(folder.model, ema.model, patchify, training.class_names, str(ema))
    return Trained(ema.model, patchify, training, held_out, ema.steps, (first, last))


def _mean(fabric: Fabric, value: Tensor) -> float:
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(config.seed, "weights").initial_seed())
        return DiT(shape)


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.AdamW:
    """AdamW, with decay on matrices and none on biases, gains and positions."""
    matrices = [p for module in model.modules() if isinstance(module, nn.Linear) for p in [module.weight]]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


class HeldOutLoss:
    """The training loss on held-out images, with labels and with noise and levels that never change.

    They do not even depend on the run's seed, so the numbers of two runs with one law of levels can be compared.
    """

    def __init__(self, config: TrainConfig, images: ImageSet, patchify: Patchify) -> None:
        self._x = patchify.to_tokens(images.squares())
        self._eps = torch.randn(self._x.shape, generator=generator(0, "held-out noise"))
        self._label = images.labels if images.class_names else None
        levels = weighted(snap(config.levels(patchify.grid), config.level_bins), config.schedule, config.weighting)
        self._draw = levels(len(images), generator(0, "held-out levels"))
        self._chunk = config.batch_size

    @torch.no_grad()
    def __call__(self, model: DiT) -> float:
        device = model.position.device
        total = 0.0
        for i in range(0, len(self._x), self._chunk):
            rows = slice(i, i + self._chunk)
            draw = Draw(NoiseMap(self._draw.noise.log_snr[rows].to(device)), self._draw.weight[rows].to(device))
            label = None if self._label is None else self._label[rows].to(device)
            x, eps = self._x[rows].to(device), self._eps[rows].to(device)
            total += float(loss(model, x, draw, eps, label=label).sum())
        return total / self._x.numel()
