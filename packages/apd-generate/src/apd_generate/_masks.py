"""Masks: from a picture to the level that each pixel, and each token, starts from."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, max_pool2d, pad

from apd_models import Patchify

from ._fit import Box, crop_levels
from ._images import ImageError


@dataclass(frozen=True, slots=True)
class Mask:
    """What is to be made anew of an image.

    Args:
        levels: that its pixels start from: 0 is known, 1 noise; between, a pixel is kept in part.
        report: what was done to read it, one line; empty if nothing.
    """

    levels: Float[Tensor, "y x"]
    report: str


def read_mask(
    image: Image.Image, size: tuple[int, int], *, invert: bool = False, soft: bool = False, dilate: int = 0
) -> Mask:
    """White is made anew, black stays, and so does what is transparent.

    Args:
        image: as :func:`read_image` gives it. If it has another size than the image that it masks but its shape, to a
            twentieth, it is resized: a pixel with a hidden part is hidden.
        size: width and height of the image that it masks.
        invert: black is made anew, white stays.
        soft: greys are levels. Else they count as black or white, whichever is nearer.
        dilate: pixels by which what is hidden grows to all sides, as a square brush does it.

    Raises:
        ImageError: a mask of another shape, or a negative ``dilate``.
    """
    if dilate < 0:
        raise ImageError(f"a mask grows by 0 pixels or more, got {dilate}")
    levels, done = _painted(image, invert), []
    between = float(((levels > 0) & (levels < 1)).float().mean())
    if between:
        done.append(f"greys ({100 * between:.3g} % of it) taken as {'levels' if soft else 'black or white'}")
    if not soft:
        levels = (levels >= 0.5).float()
    if image.size != size:
        width, height = size
        if not 1 / 1.05 < image.width * height / (image.height * width) < 1.05:
            raise ImageError(
                f"the mask has {image.width}×{image.height} pixels and the image {width}×{height}: they must be of the "
                "same size, or at least of the same shape"
            )
        levels = adaptive_max_pool2d(levels[None], (height, width))[0]
        done.append(f"resized from {image.width}×{image.height} to {width}×{height}")
    if dilate:
        levels = dilated(levels, dilate)
        done.append(f"grown by {dilate} pixels")
    return Mask(levels, ", ".join(done))


def dilated(levels: Float[Tensor, "y x"], pixels: int) -> Float[Tensor, "y x"]:
    """Each pixel takes the highest level within so many rows and columns of it."""
    reach = [min(pixels, size - 1) for size in levels.shape]
    for kernel, padding in (((2 * reach[0] + 1, 1), (reach[0], 0)), ((1, 2 * reach[1] + 1), (0, reach[1]))):
        levels = max_pool2d(levels[None], kernel, 1, padding)[0]
    return levels


def outpainted(
    image: Image.Image, levels: Float[Tensor, "y x"], sides: tuple[int, int, int, int]
) -> tuple[Image.Image, Float[Tensor, "_y _x"]]:
    """An image and its levels on a larger canvas, of which the rest is to be made.

    Args:
        sides: pixels that are added at the top, right, bottom and left.

    Raises:
        ImageError: fewer than none, or a canvas of more than 64 million pixels.
    """
    top, right, bottom, left = sides
    if min(sides) < 0:
        raise ImageError(f"an image grows by 0 pixels or more to each side, got {', '.join(map(str, sides))}")
    width, height = image.width + left + right, image.height + top + bottom
    if width * height > 64_000_000:
        raise ImageError(f"a canvas of {width}×{height} pixels is too large: 64 million are the most")
    grown = image.crop((-left, -top, image.width + right, image.height + bottom))
    grown.info = dict(image.info)
    return grown, pad(levels, (left, right, top, bottom), value=1.0)


def fit_levels(levels: Float[Tensor, "y x"], box: Box, patchify: Patchify) -> Float[Tensor, "h w"]:
    """What a box shows of a mask, at the model's size: the highest level of what a pixel covers, noise beyond the
    image."""
    return adaptive_max_pool2d(crop_levels(levels, box)[None], (patchify.height, patchify.width))[0]


@dataclass(frozen=True, slots=True)
class TokenMask:
    """What a mask means for a model, in the terms of :class:`Given`.

    Args:
        known: pixels that come back as they are, to the bit.
        start: the level that each token starts from, the highest of its pixels'; None if all are 0 or 1.
        clean: known pixels that the model is shown without noise.
        given_up: known pixels that it is not shown so, since other pixels of their token are not known. They are none
            where it takes a level for each element.
        noised: it is shown none so, by a method that puts known pixels back at every step.
        grown: of a model of latents, cells by which what is hidden has grown for it.
    """

    known: Bool[Tensor, "h w"]
    start: Float[Tensor, "n 1"] | None
    clean: Bool[Tensor, "h w"]
    given_up: int
    noised: bool = False
    grown: int = 0

    def narrowed(self, levels: Float[Tensor, "h w"], patchify: Patchify, cells: int) -> "TokenMask":
        """The same pixels known, and the model shown less of them: what starts from other levels, ``cells`` further."""
        less = token_mask(levels, patchify)
        given_up = int((self.known & ~less.clean).sum())
        return replace(self, start=less.start, clean=less.clean, given_up=given_up, grown=cells)

    @property
    def report(self) -> str:
        """One line."""
        known, pixels = int(self.known.sum()), self.known.numel()
        said = f"{known} of {pixels} pixels are known"
        if self.given_up:
            cells = "1 cell" if self.grown == 1 else f"{self.grown} cells"
            far = f" or within {cells} of what is hidden" if self.grown else ""
            where = "which" if self.noised else f"in patches that are not known whole{far} and which"
            said += f", {self.given_up} of them {where} the model sees with noise"
        return said


def token_mask(levels: Float[Tensor, "h w"], patchify: Patchify, element_levels: bool = False) -> TokenMask:
    """Pixels to tokens, by the highest level.

    Args:
        levels: that the pixels start from, at the model's size.
        element_levels: the model takes a level for each element, ``model.config.element_levels``.
    """
    known = levels == 0
    whole = patchify.known_tokens(known)
    clean = known if element_levels else as_pixels(whole, patchify) > 0
    start = None
    if ((levels > 0) & (levels < 1)).any():
        p = patchify.patch
        start = max_pool2d(levels[None], p, p).reshape(-1, 1)
    return TokenMask(known, start, clean, int((known & ~clean).sum()))


def as_pixels(tokens: Bool[Tensor, "n 1"] | Float[Tensor, "n 1"], patchify: Patchify) -> Float[Tensor, "h w"]:
    """A number of each token at all of its pixels."""
    p = patchify.patch
    return tokens.float().reshape(patchify.grid).repeat_interleave(p, 0).repeat_interleave(p, 1)


def _painted(image: Image.Image, invert: bool) -> Float[Tensor, "y x"]:
    """How far a pixel is painted over, from 0 to 1."""
    if image.mode == "I;16":
        grey = torch.from_numpy(np.asarray(image).astype(np.float32) / 65535)
    else:
        grey = torch.from_numpy(np.array(image.convert("L"), np.float32) / 255)
    grey = 1 - grey if invert else grey
    if image.mode not in ("LA", "RGBA"):
        return grey
    return grey * torch.from_numpy(np.array(image.getchannel("A"), np.float32) / 255)
