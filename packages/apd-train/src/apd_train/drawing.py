"""What the apps that draw images make of their flags. Needs tyro (``apd-train[apps]``), as ``app`` does."""

from dataclasses import replace
from pathlib import Path

import torch

from apd_generate import Recipe, order_of_image, read_image
from apd_models import Codec, DiT, Pretrained, autoencoder_kl, check_codec, from_pretrained

from .app import UsageError


def recipe_of(recipe: Recipe, order_image: Path | None, autoguidance_model: Path | None, model: DiT) -> Recipe:
    """The recipe with every default filled in, and with the order of ``--order-image``."""
    if order_image is not None:
        if recipe.order not in (None, "drawn"):
            raise UsageError(f"--order-image is an order, and so is --order {recipe.order}: leave one of them out")
        drawn = order_of_image(read_image(order_image), model.config.grid)
        recipe = replace(recipe, order="drawn", drawn=drawn)
    elif recipe.order == "drawn":
        raise UsageError("--order drawn takes a picture of the order: say --order-image FILE")
    if (autoguidance_model is None) != (recipe.autoguidance is None):
        raise UsageError("--autoguidance SCALE and --autoguidance-model DIR go together")
    return recipe.resolved(model)


def weaker_model(folder: Path | None, pretrained: Pretrained) -> DiT | None:
    """That of ``--autoguidance-model``. It has to see the same tokens and classes."""
    if folder is None:
        return None
    weak = from_pretrained(folder)
    if (weak.patchify, weak.class_names) != (pretrained.patchify, pretrained.class_names):
        raise UsageError(
            f"--autoguidance-model {folder} is of other images or classes than --model: take one of the same"
        )
    return weak.model


def codec_of(folder: Path | None, model: Path, pretrained: Pretrained) -> Codec | None:
    """The autoencoder of ``--codec``, which a model of latents needs and no other takes.

    Args:
        model: where the model is from, for the message.
    """
    channels = pretrained.patchify.channels
    if folder is not None:
        codec = autoencoder_kl(folder, "cuda" if torch.cuda.is_available() else "cpu")
        check_codec(codec, pretrained)
        return codec
    if channels not in (1, 3) or pretrained.latents is not None:
        raise UsageError(
            f"{model} makes latents of {channels} channels: say --codec DIR, the folder of the autoencoder that its "
            "training data were encoded with"
        )
    return None
