"""An error head for a model that is trained already."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from lightning_fabric import Fabric

from apd_models import DiT, LatentScale, Patchify, Pretrained, with_error_head

from ._config import ConfigError, TrainConfig
from ._data import DataError, ImageSet
from ._execution import DEFAULT, Execution
from ._fit import Trained, say, train
from ._position import Progress
from ._random import generator
from ._run_folder import RunFolder


def fit_error_head(
    pretrained: Pretrained,
    config: TrainConfig,
    images: ImageSet,
    folder: RunFolder,
    fabric: Fabric,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    facts: Mapping[str, Any] = MappingProxyType({}),
    execution: Execution = DEFAULT,
    on_message: Callable[[str], None] = say,
) -> Trained:
    """Adds an error head to a model and trains it alone: the model then says how wrong each token's guess is.

    Its other weights stay as they are, to the bit. The run is written as by :func:`fit`; ``heldout_loss`` is the
    model's and does not change.

    Args:
        pretrained: without an error head; not changed.
        config: of the run. What the model is (size, patch, conditioning, …) is read off the model.
        images: best those that the model was trained on: the same are held out, so what is measured on these is true of
            new ones. Classes are those of the model, by name.

    Raises:
        ConfigError, DataError, RunFolderError, CheckpointError, DivergedError: see :func:`fit`.
    """
    of, patchify = pretrained.model.config, pretrained.patchify
    if of.error_head:
        raise ConfigError("this model has an error head already")
    if (images.channels, images.size, images.size) != (patchify.channels, patchify.height, patchify.width):
        raise DataError(
            f"the images have {images.channels} channels and {images.size} pixels a side, those of the model "
            f"{patchify.channels} and {patchify.height}×{patchify.width}"
        )
    if pretrained.latents is not None:
        _check_latents(images.latents, pretrained.latents)
    config = replace(
        config,
        image_size=patchify.height,
        patch=patchify.patch,
        width=of.width,
        depth=of.depth,
        heads=of.heads,
        conditioning=of.conditioning,
        position=of.position,
        one_way=of.one_way,
        element_levels=of.element_levels,
        error_head=True,
    )

    def make(training: ImageSet, patchify: Patchify) -> DiT:
        model = with_error_head(pretrained.model, generator(config.seed, "error head"))
        model.requires_grad_(False)
        assert model.error is not None
        model.error.requires_grad_(True)
        return model

    known = replace(_named_by(images, pretrained.class_names), codec=images.codec or pretrained.codec)
    weights = f"{pretrained.weights.replace('{', '{{').replace('}', '}}')}; error head {{}}"
    return train(make, config, known, folder, fabric, on_progress, facts, execution, on_message, weights)


def _check_latents(data: LatentScale | None, model: LatentScale) -> None:
    digests = None if data is None else data.codec, model.codec
    if None not in digests and digests[0] != digests[1]:
        raise DataError(
            f"the data are latents of the autoencoder {digests[0]:.12}…, the model of {model.codec:.12}…: take the "
            "latents that it was trained on"
        )
    if data is None or (data.mean, data.std) != (model.mean, model.std):
        raise DataError("the data are not standardised as the model's: take the latents that it was trained on")


def _named_by(images: ImageSet, names: tuple[str, ...]) -> ImageSet:
    """The images with their labels counted as the model counts them."""
    if not names:
        return replace(images, class_names=())
    if not images.class_names:
        raise DataError(f"the images have no classes, and the model has {', '.join(names)}")
    unknown = [name for name in images.class_names if name not in names]
    if unknown:
        raise DataError(f"the class {unknown[0]!r} is not one of the model's: {', '.join(names)}")
    labels = torch.tensor([names.index(name) for name in images.class_names])[images.labels]
    return replace(images, labels=labels, class_names=names)
