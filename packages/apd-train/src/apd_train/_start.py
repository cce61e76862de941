"""A model that is trained already, and a run that begins with it."""

from dataclasses import replace

import torch

from apd_models import DiT, LatentScale, Pretrained, with_error_head
from apd_samplers import flow_weighting

from ._config import ConfigError, TrainConfig
from ._data import DataError, ImageSet, at_scale
from ._random import generator

OF_THE_MODEL = ("width", "depth", "heads", "conditioning", "position", "one_way", "element_levels")
"""What a run and a model both say."""
PREDICT_NOISE = ("dit", "diffusers")
"""Conventions of :class:`apd_models.DiTConfig`; the clean token errs by ``sigma / alpha`` times what the noise does."""


def start_of(pretrained: Pretrained, config: TrainConfig) -> DiT:
    """A copy to be trained, with an error head of its own if the run has one and the model none.

    All that a run does not say is the model's: its kind of norms, what it is told of the level, its ``data_std``.

    Raises:
        ConfigError: the run is of another model.
    """
    _check_shape(pretrained, config)
    with torch.device("meta"):
        model = DiT(pretrained.model.config)
    weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in pretrained.model.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    if config.error_head and model.error is None:
        model = with_error_head(model, generator(config.seed, "error head"))
    return model.train().requires_grad_(True)


def _check_shape(pretrained: Pretrained, config: TrainConfig) -> None:
    of = pretrained.model.config
    has = {"patch": pretrained.patchify.patch, **{name: getattr(of, name) for name in OF_THE_MODEL}}
    if of.error_head:
        has["error_head"] = True
    for name, value in has.items():
        if getattr(config, name) != value:
            raise ConfigError(
                f"the model to start from has {name} {value}, and the run {getattr(config, name)}: give the run what "
                "the model has"
            )
    if of.convention in PREDICT_NOISE and config.weighting is flow_weighting:
        raise ConfigError(
            "the model to start from predicts the noise, whose errors count without end near pure noise by "
            "flow_weighting: give the run eps_weighting"
        )
    if of.context_dim:
        raise ConfigError("the model to start from takes tokens in context, which training cannot give: take another")


def to_go_on_with(pretrained: Pretrained, images: ImageSet) -> ImageSet:
    """The images with their labels counted as the model counts them, and latents at the scale that it knows, whatever
    that of their set is.

    Raises:
        DataError: they are of another size or kind than those that the model is of, or of other classes.
    """
    known = pretrained.latents
    if known is not None and images.latents is not None and images.channels == known.channels:
        images = at_scale(images, replace(known, codec=images.latents.codec or known.codec))
    patchify = pretrained.patchify
    if (images.channels, images.size, images.size) != (patchify.channels, patchify.height, patchify.width):
        raise DataError(
            f"the images have {images.channels} channels and {images.size} pixels a side, those of the model "
            f"{patchify.channels} and {patchify.height}×{patchify.width}"
        )
    if known is not None:
        _check_latents(images.latents, known)
    return replace(_named_by(images, pretrained.class_names), codec=images.codec or pretrained.codec)


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
    if not names:
        return replace(images, class_names=())
    some = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    if not images.class_names:
        raise DataError(f"the images have no classes, and the model has {some}")
    unknown = [name for name in images.class_names if name not in names]
    if unknown:
        raise DataError(f"the class {unknown[0]!r} is not one of the model's: {some}")
    labels = torch.tensor([names.index(name) for name in images.class_names])[images.labels]
    return replace(images, labels=labels, class_names=names)
