"""What the apps that draw images make of their flags. Needs tyro (``apd-train[apps]``), as ``app`` does."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from apd_generate import Dilate, Recipe, order_of_image, read_image
from apd_models import (
    Codec,
    DiT,
    Leak,
    Pretrained,
    check_codec,
    dilation,
    filled,
    from_pretrained,
    known_cells,
    leak,
    load_codec,
)

from .app import UsageError

LEAK = 0.25
"""How far hiding may move latents that are shown, by default: an error of a sixteenth of their variance. Less would
take more of what is known from the model than it would mend."""
MOST_CELLS = 1000


@dataclass(frozen=True)
class LatentFlags:
    """Of models of latents."""

    codec: Path | None = None
    """For a model of latents: their autoencoder, a folder or a .safetensors. By default the one in the model folder; it
    has to be the one that the training data were encoded with."""
    latent_dilate: int | None = None
    """For a model of latents: cells of latents by which what is hidden grows for the model. Autoencoders look beyond a
    cell, so latents next to what is hidden are not what they are in a whole image. Known pixels come back all the same.
    By default as many as --leak asks for."""
    leak: float | None = None
    """For a model of latents: how far hiding may move the latents that the model is shown as known, as the root of the
    mean square in their standard deviations. How far from what is hidden that is so is measured on each image, with
    its visible pixels in the place of the hidden ones, which have no influence. By default 0.25."""

    def check(self) -> None:
        """Refuses what is wrong whatever the model is."""
        if self.latent_dilate is not None and self.leak is not None:
            raise UsageError("--latent-dilate and --leak both say how far what is hidden grows: leave one of them out")
        if self.latent_dilate is not None and not 0 <= self.latent_dilate <= MOST_CELLS:
            raise UsageError(f"--latent-dilate must be from 0 to {MOST_CELLS}, got {self.latent_dilate}")
        if self.leak is not None and not 0 < self.leak < math.inf:
            raise UsageError(f"--leak must be a finite number above 0, got {self.leak}")

    def check_against(self, codec: Codec | None) -> None:
        """Refuses what is for models of latents where there is no autoencoder."""
        if codec is None and (self.latent_dilate is not None or self.leak is not None):
            raise UsageError("--latent-dilate and --leak are for models of latents, and this is one of pixels")

    @property
    def bound(self) -> float:
        """Of :func:`dilation_within`."""
        return LEAK if self.leak is None else self.leak

    @property
    def record(self) -> dict[str, float | int]:
        """For JSON: what rules how far what is hidden grows."""
        return {"leak": self.bound} if self.latent_dilate is None else {"latent_dilate": self.latent_dilate}

    def dilate(self, codec: Codec, pretrained: Pretrained, tell: "Callable[[Dilated], None]") -> Dilate:
        """For :func:`apd_generate.complete`.

        Args:
            tell: gets what is measured, if that is, of the first window.
        """
        if self.latent_dilate is not None:
            return self.latent_dilate

        def find(pixels: Float[Tensor, "c h w"], visible: Bool[Tensor, "h w"]) -> int:
            found = dilation_within(self.bound, codec, pretrained, pixels[None], visible[None])
            tell(found)
            return found.cells

        return find


@dataclass(frozen=True, slots=True)
class Dilated:
    """How far from what is hidden latents are taken for known.

    Args:
        cells: by which what is hidden grows.
        bound: that is kept beyond them: the one that was asked for, or, where no distance keeps it, the least of its
            doubles that one keeps.
        asked: the bound that was asked for.
        leak: what was measured; None where there is nothing to measure.
    """

    cells: int
    bound: float
    asked: float
    leak: Leak | None

    @property
    def report(self) -> str:
        """One line; empty where nothing was measured."""
        if self.leak is None:
            return ""
        moved = self.leak.hiding.rms
        said = f"hiding moves the latents next to it by {moved[0]:.2g} of their standard deviation"
        if self.cells:
            cells = "1 cell" if self.cells == 1 else f"{self.cells} cells"
            said += f", beyond {cells} by {max(moved[self.cells :]):.2g}: what is nearer is made anew"
        return said if self.bound == self.asked else f"{said}; no distance keeps --leak {self.asked:g}"

    @property
    def record(self) -> dict[str, object]:
        """For JSON."""
        moved = None if self.leak is None else [round(rms, 6) for rms in self.leak.hiding.rms]
        return {"cells": self.cells, "bound": self.bound, "moved_by_distance": moved}


def dilation_within(
    bound: float, codec: Codec, pretrained: Pretrained, pixels: Float[Tensor, "b c h w"], visible: Bool[Tensor, "b h w"]
) -> Dilated:
    """The least growth of what is hidden beyond which hiding moves latents by no more than ``bound``."""
    cells = known_cells(visible, codec.factor)
    if cells.all() or not cells.any():
        return Dilated(0, bound, bound, None)
    found, kept = leak(codec, filled(pixels, visible), visible, scale=pretrained.latents), bound
    if not all(map(math.isfinite, found.hiding.rms)):
        raise UsageError("the autoencoder gives latents that are no finite numbers: is it damaged?")
    while (least := dilation(found, kept)) is None:
        kept *= 2
    return Dilated(least, kept, bound, found)


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


def codec_of(
    source: Path | None, model: Path, pretrained: Pretrained, device: str | torch.device = "cpu"
) -> Codec | None:
    """The autoencoder of a model of latents: that of ``--codec``, else the one in its folder. None for one of pixels.

    Args:
        model: where the model is from, for the message.

    Raises:
        UsageError: a model of latents, and no autoencoder.
        CodecError: it is not that of the model, or cannot be loaded.
    """
    source = source or pretrained.codec
    if source is not None:
        codec = load_codec(source, device)
        check_codec(codec, pretrained)
        if codec.image_channels not in (1, 3):
            raise UsageError(f"{source} makes images of {codec.image_channels} channels, neither grey nor RGB")
        return codec
    channels = pretrained.patchify.channels
    if channels not in (1, 3) or pretrained.latents is not None:
        raise UsageError(
            f"{model} makes latents of {channels} channels: say --codec PATH, the autoencoder that its training data "
            "were encoded with, since there is none in its folder"
        )
    return None
