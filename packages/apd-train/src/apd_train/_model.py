"""The model of a run and its optimizers."""

import torch
from torch import nn

from apd_models import DiT, Patchify, with_error_head

from ._config import ConfigError, TrainConfig
from ._data import ImageSet, hold_out
from ._muon import Muon
from ._random import generator
from ._run_config import RunConfig


def divided(config: TrainConfig, images: ImageSet) -> tuple[ImageSet, ImageSet, Patchify]:
    """What is trained on, what is held out, and how an image becomes tokens.

    Raises:
        DataError: there are too few images.
    """
    training, held_out = divided_images(config, images)
    return training, held_out, Patchify(config.image_size, config.image_size, images.channels, config.patch)


def divided_images(config: RunConfig, images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """What is trained on, and what is held out.

    Raises:
        DataError: there are too few images.
    """
    return hold_out(images, max(1, min(config.held_out, len(images) // 20)))


def data_std(images: ImageSet) -> float:
    """Root mean square of about a thousand of the images, in three decimals; never 0."""
    some = images.squares(range(0, len(images), max(1, len(images) // 1000)))
    return max(round(float(some.square().mean().sqrt()), 3), 1e-3)


def make_model(config: TrainConfig, images: ImageSet, patchify: Patchify, std: float | None = None) -> DiT:
    """A model for these images, its initial weights a function of the seed, the same with and without an error head.

    Args:
        std: what it takes their standard deviation for; by default measured.
    """
    if config.element_levels and patchify.token_dim == 1:
        raise ConfigError("element_levels are for tokens of several elements: a token of one has a level of its own")
    shape = config.shape(
        patchify.grid,
        patchify.token_dim,
        classes=len(images.class_names),
        data_std=data_std(images) if std is None else std,
    )
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(generator(config.seed, "weights").initial_seed())
        model = DiT(shape)
    return with_error_head(model, generator(config.seed, "error head")) if config.error_head else model


def make_optimizers(config: TrainConfig, model: DiT) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for all else: embeddings, modulation, heads, gains and biases.

    They share a learning rate, see :class:`Muon`. What Muon is worth: docs/design.md. Parameters that are frozen are
    left out, and an optimizer that has none.
    """
    named = model.blocks.named_parameters()
    inner = lambda name: ".attention." in name or ".feed_forward." in name
    matrices = [p for name, p in named if p.ndim == 2 and p.requires_grad and inner(name)]
    chosen = {id(p) for p in matrices}
    free = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    weights = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    linear, rest = [p for p in free if id(p) in weights], [p for p in free if id(p) not in weights]
    groups = [{"params": linear, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
    if not matrices:
        return [adam]
    return [Muon(matrices, config.learning_rate, config.momentum, config.weight_decay), adam]


def clipped_apart(model: DiT) -> list[list[nn.Parameter]]:
    """What is trained, in groups whose gradients are clipped each by itself: an error head changes nothing else."""
    head = [] if model.error is None else [*model.error.parameters()]
    of_head = {id(p) for p in head}
    groups = [p for p in model.parameters() if id(p) not in of_head], head
    trained = [[p for p in group if p.requires_grad] for group in groups]
    return [group for group in trained if group]
