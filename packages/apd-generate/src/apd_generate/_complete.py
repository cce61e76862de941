"""An image of any size completed by a model of one size: as a whole, or tile by tile."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from apd_models import Codec, DiT, Pretrained, image_patchify, without_hidden

from ._build import takes_elements
from ._fit import Box, Fitted, check_mode, crop_image, fit_image, levels_of, paste
from ._generate import Step, generate
from ._given import Given
from ._images import ImageError
from ._in_latents import decoded, given_latents, latent_levels
from ._masks import TokenMask, fit_levels, token_mask
from ._recipe import Recipe

Dilate = int | Callable[[Float[Tensor, "c h w"], Bool[Tensor, "h w"]], int]
"""Cells by which what is hidden of latents grows, or a function that finds them from the pixels of a window, grey where
they are hidden, and which of them are visible."""


@dataclass(frozen=True, slots=True)
class Window:
    """One look of the model at the image.

    Args:
        fitted: what it saw of the image, of the first completion.
        levels: that these pixels started from.
        mask: what that meant for the model.
        made: of each seed, values about [-1, 1].
    """

    fitted: Fitted
    levels: Float[Tensor, "h w"]
    mask: TokenMask
    made: Float[Tensor, "k c h w"]


@dataclass(frozen=True, slots=True)
class Completed:
    """Args:
    images: one of each seed, of the size and mode of the image; what was known of it is as it was, to the bit.
    windows: one, or one for each tile, in the order in which they were made.
    evaluations: network evaluations of each completion, all windows together.
    token_evaluations: tokens that went through the network, likewise.
    """

    images: tuple[Image.Image, ...]
    windows: tuple[Window, ...]
    evaluations: int
    token_evaluations: int


def complete(
    pretrained: Pretrained,
    recipe: Recipe,
    image: Image.Image,
    levels: Float[Tensor, "y x"],
    seeds: Sequence[int],
    labels: Int[Tensor, " k"] | None = None,
    *,
    tile: bool = False,
    codec: Codec | None = None,
    dilate: Dilate = 0,
    keep: bool = True,
    weak: DiT | None = None,
    batch: int = 64,
    on_step: Callable[[Step], None] | None = None,
) -> Completed:
    """Completions of an image, one a seed. A completion does not depend on the others, nor on the batch.

    As a whole, the image is fitted to the model's size and what was made is brought to the image's: see
    :func:`fit_image` and :func:`paste`. By tiles nothing is resized: the model completes squares of its own size, each
    given the known pixels and what the tiles before it made; see :func:`tiles`.

    Args:
        image: as :func:`read_image` gives it.
        levels: that its pixels start from, 0 known, 1 noise: see :class:`Mask`.
        labels: a class for each seed; None for no class.
        tile: tile by tile.
        codec: the autoencoder of a model of latents. Hidden pixels are hidden from it too, so that no latent knows of
            them.
        dilate: of a model of latents, cells by which what is hidden grows for the model, see :func:`given_latents`;
            known pixels come back all the same. Or a function that finds them, from the first window.
        keep: put known pixels back as they were. Without, the images are what the model made of all of what it looked
            at, as its autoencoder has it.
        weak, batch, on_step: see :func:`generate`; steps count over all windows.

    Raises:
        ImageError: nothing is to be made, an image in another mode, or a model of latents without its autoencoder.
        ValueError: no seeds, or levels that do not fit the image or do not lie in [0, 1].
        CodecError: an autoencoder that is not the model's.
        RecipeError: a recipe that this model cannot follow.
    """
    check_mode(image)
    levels = levels_of(levels, image)
    if not ((levels >= 0) & (levels <= 1)).all():
        raise ValueError("levels lie in [0, 1], 1 noise")
    if not len(seeds):
        raise ValueError("a completion is made for each seed, and there are none")
    if not (levels > 0).any():
        raise ImageError("nothing is hidden: the whole image is known already")
    patchify = pretrained.patchify if codec is None else image_patchify(codec, pretrained.patchify)
    whole = recipe.resolved(pretrained.model)
    element_levels = codec is None and takes_elements(whole, pretrained.model)
    size = patchify.width, patchify.height
    boxes = tiles(levels, size) if tile else [fit_image(image, patchify, levels).box]
    images, windows, evaluations, token_evaluations = [image] * len(seeds), [], 0, 0
    cells = 0
    for index, box in enumerate(boxes):
        alike = images[:1] if index == 0 else images
        fits = [crop_image(each, patchify, box, levels) for each in alike]
        fitted_levels = fit_levels(levels, box, patchify)
        mask, pixels = token_mask(fitted_levels, patchify, element_levels), torch.stack([fit.pixels for fit in fits])
        if codec is not None:
            visible = fitted_levels[None] < 1
            if index == 0:  # later windows show what was made for one seed or another
                seen_first = without_hidden(pixels[:1], visible)[0], visible[0]
                cells = dilate if isinstance(dilate, int) else dilate(*seen_first)
            mask = mask.narrowed(latent_levels(fitted_levels[None], codec.factor, cells)[0], patchify, cells)
            shown = fitted_levels.expand(len(fits), -1, -1)
            latents = given_latents(codec, pretrained, pixels, shown, cells).repeated(len(seeds) // len(fits))
            given, seen = latents.given, latents.seen
        else:
            start = None if mask.start is None else mask.start.expand(len(fits), -1, -1)
            given = Given(pixels, mask.known.expand(len(fits), -1, -1), start).repeated(len(seeds) // len(fits))
            seen = None
        if whole.method != "native":  # which shows nothing as clean
            mask = replace(mask, clean=torch.zeros_like(mask.known), given_up=int(mask.known.sum()), noised=True)

        def tell(step: Step, index: int = index) -> None:
            if on_step is not None:
                on_step(replace(step, done=index * step.total + step.done, total=len(boxes) * step.total))

        own = seeds if index == 0 else [_of_tile(seed, index) for seed in seeds]
        how: dict[str, Any] = {"given": given, "weak": weak, "batch": batch, "on_step": tell}
        made = generate(pretrained.model, pretrained.patchify, recipe, own, labels, **how)
        new = made.images if codec is None else decoded(codec, pretrained, made.images, seen)
        place = levels if keep else torch.ones_like(levels)
        images = [paste(old, each, box, place) for old, each in zip(images, new, strict=True)]
        levels = levels.clone()
        left, upper, right, lower = box
        levels[max(upper, 0) : lower, max(left, 0) : right] = 0
        windows.append(Window(fits[0], fitted_levels, mask, new))
        evaluations += made.evaluations
        token_evaluations += made.token_evaluations
    return Completed(tuple(images), tuple(windows), evaluations, token_evaluations)


def tiles(levels: Float[Tensor, "y x"], size: tuple[int, int]) -> list[Box]:
    """Tiles that cover what is not known of an image, in the order in which they are to be made.

    They lie half a tile apart. The next one is that with the most to make, among those of which at least half is known
    by then; where there is none, the one with the least to make. So the way goes from what is known inwards and
    outwards. A tile of an image that is smaller reaches beyond it.

    Args:
        size: of a tile, width and height.
    """
    hidden = (levels > 0).numpy()
    (height, width), (w, h) = hidden.shape, size
    boxes = [(x, y, x + w, y + h) for y in _starts(height, h) for x in _starts(width, w)]
    part = lambda box: (slice(max(box[1], 0), box[3]), slice(max(box[0], 0), box[2]))
    places = np.array(boxes)
    left = np.array([hidden[part(box)].sum() for box in boxes])
    order: list[Box] = []
    half = min(width, w) * min(height, h) / 2
    while left.any():
        known = np.where(left <= half, left, 0)
        chosen = int(known.argmax() if known.any() else np.where(left > 0, left, w * h + 1).argmin())
        order.append(boxes[chosen])
        hidden[part(boxes[chosen])] = False
        near = np.abs(places[:, :2] - places[chosen, :2]) < np.array(size)
        for index in np.flatnonzero(near.all(axis=1)):
            left[index] = hidden[part(boxes[index])].sum()
    return order


def _starts(length: int, tile: int) -> list[int]:
    if length <= tile:
        return [(length - tile) // 2]
    return [*range(0, length - tile, max(1, tile // 2)), length - tile]


def _of_tile(seed: int, index: int) -> int:
    """A seed below 2⁶³ for each tile but the first, which has the seed itself."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0] >> np.uint64(1))
