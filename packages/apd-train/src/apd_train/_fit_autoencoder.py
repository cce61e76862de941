"""Training an autoencoder: what a run is made of, and what it leaves."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn

from apd_models import Autoencoder, AutoencoderConfig, LatentScale, as_codec

from ._autoencoder_config import AutoencoderTraining
from ._autoencoder_grids import autoencoder_grids_of, draw_autoencoder_grids
from ._autoencoder_loss import PARTS, AutoencoderLoss, watched, watched_sums
from ._data import DataError, ImageSet, fingerprints, spread
from ._execution import DEFAULT, Execution
from ._feature_loss import FeatureLoss
from ._files import folder_aside
from ._held_out_images import HeldOutReconstruction
from ._image_batches import ImageBatches
from ._model import data_std, divided_images
from ._parallel import local_batch
from ._position import Progress
from ._processes import together
from ._random import generator
from ._run import Task, carry_out, look, say
from ._run_config import ConfigError
from ._run_folder import RunFolder

MEASURED = 512
"""Training images of which the scale of latents is measured, at most."""
CHUNK = 32


@dataclass(frozen=True, slots=True)
class TrainedAutoencoder:
    """What a run leaves in memory.

    Args:
        network: with the averaged weights, on the CPU; the run's model folder has it for :func:`apd_models.load_codec`.
        steps: done; fewer than asked for where the run was stopped.
        heldout_loss: of the averaged weights before the first step and at the last evaluation.
        stopped: the signal that ended the run, if one did.
        skipped_steps: left out, since their gradients were not finite.
    """

    network: Autoencoder
    training: ImageSet
    held_out: ImageSet
    steps: int
    heldout_loss: tuple[float, float]
    stopped: signal.Signals | None = None
    skipped_steps: int = 0


def fit_autoencoder(
    config: AutoencoderTraining,
    images: ImageSet,
    folder: RunFolder,
    fabric: Fabric,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    facts: Mapping[str, Any] = MappingProxyType({}),
    execution: Execution = DEFAULT,
    on_message: Callable[[str], None] = say,
) -> TrainedAutoencoder:
    """Trains an autoencoder that knows which pixels it may see. The run is written, stopped and resumed as by
    :func:`fit`; its model folder is an autoencoder's, with the scale of its latents on training images.

    Args:
        images: all images; some of them are held out by content.
        execution: not compiled, and with no activations computed again: both are of transformers.

    Raises:
        ConfigError, DataError, RunFolderError: the run cannot start; nothing was written.
        CheckpointError, SnapshotError, WriteError, DivergedError: see :func:`fit`.
    """
    share = local_batch(config.batch_size, fabric.world_size)
    check_execution(execution, fabric)
    check_images(images)
    training, held_out = divided_images(config, images)
    read, measured = _of_one_class(training), _of_one_class(held_out)
    module = make_autoencoder(config, images.channels)
    model = module.model
    facts = {
        **facts,
        "autoencoder": asdict(model.config),
        "images": len(images),
        "held_out": len(held_out),
        **fingerprints(images),
        "class_names": list(images.class_names),
        "data_std": data_std(training),
        "skipped": list(images.skipped),
    }
    before = look(folder, config, facts)
    scaled: list[ImageSet] = []
    together(lambda: scaled.append(for_the_scale(read)))  # on the first process, which saves
    grids = None if execution.grid_every is None else autoencoder_grids_of(measured)

    def save(average: dict[str, Tensor], described: str) -> None:
        network = with_weights(model.config, average).to(fabric.device)
        stats = scale_of(network, scaled[0])
        with folder_aside(folder.model) as aside:
            as_codec(network, stats).save(aside)

    task = Task(
        config,
        model,
        lambda: fabric.setup_module(module),
        lambda: autoencoder_optimizers(config, model),
        lambda: [[*model.parameters()]],
        ImageBatches(config, read),
        HeldOutReconstruction(config, measured, module, min(execution.micro_batch or share, share)),
        None if grids is None else partial(draw_autoencoder_grids, grids, model),
        PARTS,
        (watched_sums(config),),
        watched,
        None,
        save,
    )
    done = carry_out(task, folder, fabric, before, facts, execution, on_progress, on_message)
    return TrainedAutoencoder(
        with_weights(model.config, done.weights),
        training,
        held_out,
        done.at.step,
        done.heldout_loss,
        done.stopped,
        done.at.guard.skipped,
    )


def make_autoencoder(config: AutoencoderTraining, image_channels: int) -> AutoencoderLoss:
    """With its losses around it; its initial weights a function of the seed."""
    if image_channels not in (1, 3) and config.features_weight:
        raise ConfigError(
            f"features are of grey or RGB images, not of {image_channels} channels: set features_weight 0"
        )
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(generator(config.seed, "weights").initial_seed())
        model = Autoencoder(config.shape(image_channels))
    return AutoencoderLoss(model, config, FeatureLoss(config.features_side) if config.features_weight else None)


def autoencoder_optimizers(config: AutoencoderTraining, model: Autoencoder) -> list[torch.optim.Optimizer]:
    """AdamW, with decay on the kernels of convolutions alone."""
    kernels = {id(module.weight) for module in model.modules() if isinstance(module, nn.Conv2d)}
    decayed, rest = ([p for p in model.parameters() if (id(p) in kernels) == which] for which in (True, False))
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)]


def with_weights(config: AutoencoderConfig, weights: dict[str, Tensor]) -> Autoencoder:
    """An autoencoder of this shape with these weights, for use."""
    with torch.device("meta"):
        network = Autoencoder(config)
    network.load_state_dict(weights, assign=True)
    return network.eval().requires_grad_(False)


def _of_one_class(images: ImageSet) -> ImageSet:
    """So that any image may stand in for any other that cannot be read."""
    return replace(images, labels=torch.zeros_like(images.labels))


def for_the_scale(images: ImageSet) -> ImageSet:
    """The images of which the scale is measured, in memory: a run's data may be lost before its last checkpoint."""
    chosen = images.subset(spread(images, MEASURED))
    squares: list[Tensor] = []
    for start in range(0, len(chosen), CHUNK):
        some = chosen.squares(range(start, min(start + CHUNK, len(chosen))))
        squares += ((some + 1) * 127.5).round().to(torch.uint8)
    return replace(chosen, images=squares)


@torch.no_grad()
def scale_of(network: Autoencoder, images: ImageSet) -> LatentScale:
    """Mean and standard deviation of each channel of latents, drawn from their distributions, of whole images spread
    over the set."""
    chosen = spread(images, MEASURED)
    means: list[Tensor] = []
    variances: list[Tensor] = []
    for start in range(0, len(chosen), CHUNK):
        moments = network.moments(images.squares(chosen[start : start + CHUNK]).to(network.device))
        means.append(moments.mean.double().cpu())
        if moments.log_var is not None:
            variances.append(moments.log_var.double().exp().cpu())
    mean = torch.cat(means)
    variance = mean.var((0, 2, 3), correction=0)
    if variances:
        variance += torch.cat(variances).mean((0, 2, 3))
    std = variance.sqrt().clamp(min=1e-6)
    return LatentScale(tuple(mean.mean((0, 2, 3)).tolist()), tuple(std.tolist()))


def check_images(images: ImageSet) -> None:
    """Raises :class:`DataError` for what an autoencoder cannot be trained on."""
    if images.latents is not None:
        raise DataError("an autoencoder is trained on images, and these are latents already: give the images")


def check_execution(execution: Execution, fabric: Fabric) -> None:
    """Raises :class:`ConfigError` for what is of transformers alone."""
    if execution.compile or execution.checkpoint_activations:
        raise ConfigError("compile and checkpoint_activations are of transformers: leave them out for an autoencoder")
    if isinstance(fabric.strategy, ModelParallelStrategy):
        raise ConfigError("fsdp divides transformers: an autoencoder is small, and trained with ddp")
