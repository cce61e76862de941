"""What a run would be, without training."""

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import ModelParallelStrategy

from apd_models import DiT, LatentScale, Patchify, Pretrained

from ._batches import Batches
from ._config import TrainConfig
from ._data import ImageSet
from ._execution import Execution
from ._flops import peak_flops, training_flops
from ._memory import training_memory
from ._model import divided, make_model
from ._parallel import local_batch
from ._run_config import RunConfig
from ._start import start_of, to_go_on_with

_NAMED = 5
"""Classes whose images are counted by name."""


def dry_run(
    config: TrainConfig, images: ImageSet, fabric: Fabric, execution: Execution, start: Pretrained | None = None
) -> list[tuple[str, str]]:
    """Name and text of what is worth knowing before a run, as :func:`fit` would carry it out; nothing is written.

    Raises:
        ConfigError, DataError: it could not.
    """
    local_batch(config.batch_size, fabric.world_size)
    training, held_out, patchify = divided(config, images if start is None else to_go_on_with(start, images))
    model = make_model(config, training, patchify) if start is None else start_of(start, config)
    Batches(config, training, patchify)
    return facts_of(config, execution, model, training, held_out, patchify, fabric)


def facts_of(
    config: TrainConfig,
    execution: Execution,
    model: DiT,
    training: ImageSet,
    held_out: ImageSet,
    patchify: Patchify,
    fabric: Fabric,
) -> list[tuple[str, str]]:
    """Name and text of what is worth knowing before a run: data, model, arithmetic, memory, steps.

    Memory is an estimate: what PyTorch and its libraries need besides, some hundred megabytes on a GPU, and what they
    lose to fragments come on top.

    Args:
        model: as it would be trained, not sharded yet.
        training, held_out: as the run divides the images.
    """
    share = config.batch_size // fabric.world_size
    micro = min(execution.micro_batch or share, share)
    return [
        ("images", images_line(training, held_out)),
        *([] if training.latents is None else [("latents", _latents(training.latents))]),
        ("classes", _classes(training)),
        ("tokens", _tokens(patchify, model)),
        ("parameters", _parameters(model)),
        ("batch", batch_line(config, share, micro, fabric)),
        ("length", length_line(config, training)),
        ("arithmetic", arithmetic_line(config, _flops(config, model, share), fabric)),
        ("memory", memory_line(_memory(config, execution, model, micro, fabric))),
    ]


def most_levels(config: TrainConfig, model: DiT, samples: int) -> int:
    """Rows of modulation that a batch has at most: a level for each of ``level_bins`` cells, clean and pure noise."""
    rows = config.level_bins + 2
    if model.config.conditioning == "joint":
        rows *= min(samples, model.config.classes + 1)
    return min(rows, samples * model.config.grid[0] * model.config.grid[1])


def images_line(training: ImageSet, held_out: ImageSet) -> str:
    text = (
        f"{len(training) + len(held_out):,} of {training.size}×{training.size}, {training.kind}: "
        f"{len(training):,} to train on, {len(held_out):,} held out"
    )
    return text + (f"; {len(training.skipped):,} unreadable ones skipped" if training.skipped else "")


def _latents(scale: LatentScale) -> str:
    mean, std = (", ".join(f"{value:.3g}" for value in values) for values in (scale.mean, scale.std))
    of = "an autoencoder that is not said" if scale.codec is None else f"the autoencoder {scale.codec:.12}…"
    return f"of {of}, by channel of mean {mean} and std {std}"


def _classes(training: ImageSet) -> str:
    names = training.class_names
    if not names:
        return "none"
    counts = torch.bincount(training.labels, minlength=len(names)).tolist()
    some = ", ".join(f"{name} {count:,}" for name, count in zip(names[:_NAMED], counts, strict=False))
    more = f", … with {min(counts):,} to {max(counts):,} images each" if len(names) > _NAMED else ""
    return f"{len(names):,}: {some}{more}"


def _tokens(patchify: Patchify, model: DiT) -> str:
    rows, columns = patchify.grid
    levels = "each element has its own level" if model.config.element_levels else "each has its own level"
    return (
        f"{patchify.tokens:,} in {rows}×{columns}, of {patchify.patch}×{patchify.patch} with {patchify.token_dim} "
        f"elements; {levels}"
    )


def _parameters(model: DiT) -> str:
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        first, *rest = name.split(".")
        part = rest[1] if first == "blocks" else "embeddings and heads"
        parts[part] = parts.get(part, 0) + parameter.numel()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    text = ", ".join(f"{part.replace('_', '-')} {count:,}" for part, count in sorted(parts.items()))
    total = sum(parts.values())
    return f"{total:,}: {text}" + ("" if trained == total else f"; {trained:,} of them are trained")


def batch_line(config: RunConfig, share: int, micro: int, fabric: Fabric) -> str:
    each = f"{-(-share // micro)} × {micro} samples, in {fabric.strategy.precision.precision}"
    return f"{config.batch_size:,} a step: {fabric.world_size} × {fabric.device.type}, each {each}"


def length_line(config: RunConfig, training: ImageSet) -> str:
    seen = config.steps * config.batch_size
    return f"{config.steps:,} steps, {seen:,} samples, {seen / len(training):.1f} times each image"


def _flops(config: TrainConfig, model: DiT, samples: int) -> int:
    return training_flops(model, samples, most_levels(config, model, samples))


def arithmetic_line(config: RunConfig, flops: int, fabric: Fabric) -> str:
    """
    Args:
        flops: of a device's share of a step.
    """
    step = flops * fabric.world_size
    run = step * config.steps
    text = (
        f"{scaled(step / config.batch_size, 'FLOP')} a sample, {scaled(step, 'FLOP')} a step, {scaled(run, 'FLOP')} in "
        "all, forward and backward"
    )
    peak = peak_flops(fabric.device, fabric.strategy.precision.precision)
    if peak is None:
        return text
    minutes = run / (peak * fabric.world_size) / 60
    return f"{text}; {minutes:,.1f} minutes at the {scaled(peak, 'FLOP/s')} that a device can do at most"


def _memory(config: TrainConfig, execution: Execution, model: DiT, micro: int, fabric: Fabric) -> dict[str, int]:
    return training_memory(
        config,
        model,
        micro,
        most_levels(config, model, micro),
        half=fabric.strategy.precision.precision == "bf16-mixed",
        checkpointed=execution.checkpoint_activations,
        shards=fabric.world_size if isinstance(fabric.strategy, ModelParallelStrategy) else 1,
    )


def memory_line(parts: dict[str, int]) -> str:
    """
    Args:
        parts: bytes of a device, by what they hold.
    """
    text = ", ".join(f"{name} {scaled(size, 'B')}" for name, size in parts.items())
    return f"about {scaled(sum(parts.values()), 'B')} a device: {text}"


def scaled(value: int | float, unit: str) -> str:
    """Three digits and a prefix: ``"1.23 GB"``."""
    prefixes = ["", "k", "M", "G", "T", "P", "E", "Z"]
    while float(f"{value:.3g}") >= 1000 and len(prefixes) > 1:
        value /= 1000
        prefixes.pop(0)
    return f"{value:#.3g}".rstrip(".") + f" {prefixes[0]}{unit}"
