"""Between an image and a model's size: what the model is shown of it, and what it made, back in its place."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from apd_models import Patchify

from ._images import ImageError
from ._pictures import to_image

Box = tuple[int, int, int, int]
"""Left, upper, right and lower end, in pixels of the image; it may reach beyond it."""

MODES = ("L", "LA", "RGB", "RGBA", "I;16")
"""Of images, as they are read."""
MOST_PIXELS = 64_000_000
"""Of a box."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """An image at a model's size.

    Args:
        pixels: values in [-1, 1], each one of a file's 256.
        box: what they show of the image.
        report: what was done, one line.
        changes: of it, what became of the image's colours, whatever the box.
    """

    pixels: Float[Tensor, "c h w"]
    box: Box
    report: str
    changes: tuple[str, ...] = ()


def fit_image(image: Image.Image, patchify: Patchify, levels: Float[Tensor, "y x"] | None = None) -> Fitted:
    """The middle of an image, as much as has the shape of the model's images, at their size.

    Where a part of the image is hidden, the window moves until it shows all of that; where it is too small for it, it
    grows beyond the image.

    Args:
        image: as :func:`read_image` gives it.
        levels: that the image's pixels start from, 0 known, 1 hidden; by default all are known.

    Raises:
        ImageError: a model whose images are neither grey nor RGB.
    """
    return crop_image(image, patchify, _window(image.size, (patchify.width, patchify.height), levels), levels)


def crop_image(image: Image.Image, patchify: Patchify, box: Box, levels: Float[Tensor, "y x"] | None = None) -> Fitted:
    """What a box shows of an image, at the model's size.

    Hidden pixels have no influence on the others, which are averages of known ones alone. Colours become grey for a
    model of grey images, 16 bits become 8, and what is transparent lies on white.

    Raises:
        ImageError: a model whose images are neither grey nor RGB, or an image in another mode than
            :func:`read_image` gives.
        ValueError: levels that do not fit the image.
    """
    check_mode(image)
    levels = None if levels is None else levels_of(levels, image)
    if patchify.channels not in (1, 3):
        raise ImageError(f"this model makes latents of {patchify.channels} channels: give their autoencoder")
    if (box[2] - box[0]) * (box[3] - box[1]) > MOST_PIXELS:
        raise ImageError(
            f"a part of the model's shape that shows all of an image of {image.width}×{image.height} pixels is too "
            "large: crop the image"
        )
    shown = _flat(image.crop(box), grey=patchify.channels == 1)
    size, resample = (patchify.width, patchify.height), _filter(box, (patchify.width, patchify.height))
    if (box[2] - box[0], box[3] - box[1]) != size:
        visible = torch.zeros(image.height, image.width) if levels is None else levels
        weight = (crop_levels(visible, box) < 1).numpy().astype(np.float32)
        resized = lambda values: np.asarray(Image.fromarray(values).resize(size, resample))
        total = resized(weight)
        channels = [resized(shown[..., k] * weight) / np.maximum(total, 1e-6) for k in range(shown.shape[-1])]
        shown = np.stack(channels, -1).round()
    pixels = torch.from_numpy(shown / np.float32(127.5) - 1).permute(2, 0, 1).contiguous()
    changes = _changes(image, patchify)
    return Fitted(pixels, box, ", ".join([_shown(image, patchify, box), *changes]), changes)


def crop_levels(levels: Float[Tensor, "y x"], box: Box) -> Float[Tensor, "_y _x"]:
    """What a box shows of the levels that pixels start from: beyond the image, noise."""
    left, upper, right, lower = box
    height, width = levels.shape
    return pad(levels, (-left, right - width, -upper, lower - height), value=1.0)


def paste(image: Image.Image, made: Float[Tensor, "c h w"], box: Box, levels: Float[Tensor, "y x"]) -> Image.Image:
    """The image with what a model made in the place of what is not known of it.

    Its mode stays: what was made becomes grey, coloured, opaque or of 16 bits as the image is.

    Args:
        made: values in [-1, 1], of what ``box`` shows of the image.
        levels: that the image's pixels start from; those at 0 stay as they are, to the bit.

    Raises:
        ImageError, ValueError: an image in another mode than :func:`read_image` gives, levels that do not fit it.
    """
    check_mode(image)
    levels = levels_of(levels, image)
    size = box[2] - box[0], box[3] - box[1]
    colours = "L" if image.mode in ("L", "LA", "I;16") else "RGB"
    patch = to_image(made).convert(colours)
    if patch.size != size:
        patch = patch.resize(size, _filter((0, 0, *patch.size), size))
    left, upper = max(box[0], 0), max(box[1], 0)
    right, lower = min(box[2], image.width), min(box[3], image.height)
    new = np.asarray(patch.crop((left - box[0], upper - box[1], right - box[0], lower - box[1])))
    if image.mode == "I;16":
        new = new.astype(np.uint16) * 257
    elif image.mode in ("LA", "RGBA"):
        new = np.concatenate([new.reshape(*new.shape[:2], -1), np.full((*new.shape[:2], 1), 255, np.uint8)], -1)
    old, hole = np.array(image.crop((left, upper, right, lower))), (levels[upper:lower, left:right] > 0).numpy()
    old[hole] = new[hole]
    completed = image.copy()
    completed.paste(Image.fromarray(old), (left, upper))
    return completed


def check_mode(image: Image.Image) -> None:
    """Raises ImageError for an image in a mode that is not handled to the bit."""
    if image.mode not in MODES:
        raise ImageError(
            f"an image is in mode {', '.join(MODES)}, as read_image gives it, got {image.mode}: image.convert('RGB')"
        )


def levels_of(levels: Float[Tensor, "y x"] | Bool[Tensor, "y x"], image: Image.Image) -> Float[Tensor, "y x"]:
    """The levels of an image's pixels, of which a mask is some; ValueError for what has another shape or kind."""
    if levels.shape != (image.height, image.width):
        raise ValueError(f"levels are of each pixel, {(image.height, image.width)}, got {tuple(levels.shape)}")
    if not (levels.is_floating_point() or levels.dtype == torch.bool):
        raise ValueError(f"levels are floats in [0, 1], 1 noise, or booleans, True noise, got {levels.dtype}")
    return levels.float() if levels.dtype == torch.bool else levels


def _window(image: tuple[int, int], model: tuple[int, int], levels: Tensor | None) -> Box:
    """The largest box inside the image that has the model's shape, or a larger one that holds what is not known."""
    needed = []
    for axis in (0, 1):  # width, height
        at = torch.arange(0) if levels is None else (levels > 0).any(axis).nonzero()
        needed.append((int(at.min()), int(at.max()) + 1) if len(at) else None)
    lengths = [(last - first) if span else 0 for span in needed for first, last in [span or (0, 0)]]
    scale = min(size / side for size, side in zip(image, model, strict=True))
    scale = max(scale, *(length / side for length, side in zip(lengths, model, strict=True)))
    spans = []
    for size, side, length, span in zip(image, model, lengths, needed, strict=True):
        window = max(1, round(side * scale), length)
        start = (size - window) // 2
        if span is not None:
            start = min(max(start, span[1] - window), span[0])
        spans.append((start, start + window))
    (left, right), (upper, lower) = spans
    return left, upper, right, lower


def _flat(image: Image.Image, grey: bool) -> Float[np.ndarray, "y x c"]:
    """Values from 0 to 255, whole numbers."""
    if image.mode == "I;16":
        values = (np.asarray(image).astype(np.float32) / 257).round()[..., None]
        return values if grey else values.repeat(3, -1)
    if image.mode in ("LA", "RGBA"):
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), colours)
    values = np.asarray(image.convert("L" if grey else "RGB"), np.float32)
    return values[..., None] if grey else values


def _filter(box: Box, size: tuple[int, int]) -> Image.Resampling:
    """Filters without negative weights, so that means are of values between those that there are."""
    return Image.Resampling.HAMMING if size[0] < box[2] - box[0] else Image.Resampling.BILINEAR


def _shown(image: Image.Image, patchify: Patchify, box: Box) -> str:
    size, window = (patchify.width, patchify.height), (box[2] - box[0], box[3] - box[1])
    named = lambda pair: f"{pair[0]}×{pair[1]}"
    parts = [f"{named(image.size)} pixels"]
    if window == image.size and box[:2] == (0, 0):
        parts.append("whole" if window == size else f"whole, resized to {named(size)}")
    else:
        part = f"a window of {named(window)} at ({box[0]}, {box[1]})"
        parts.append(part if window == size else f"{part}, resized to {named(size)}")
    return ", ".join(parts)


def _changes(image: Image.Image, patchify: Patchify) -> tuple[str, ...]:
    parts = []
    if image.mode in ("RGB", "RGBA") and patchify.channels == 1:
        parts.append("colours as grey")
    if image.mode in ("LA", "RGBA"):
        parts.append("transparency on white")
    if image.mode == "I;16":
        parts.append("16 bits as 8")
    if "converted" in image.info:
        parts.append(f"{image.info['converted']}, also in what is written")
    return tuple(parts)
