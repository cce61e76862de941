"""Encoded images to pixels at training size."""

from io import BytesIO

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image
from torch import Tensor

from ._lazy import UnreadableError

EXTENSIONS = frozenset([".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"])
MAX_ASPECT = 4
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""That make an image upright, by its EXIF orientation."""


def decode(file: str | bytes, size: int) -> UInt8[Tensor, "_c _h _w"]:
    """An image, grey or RGB, turned upright by its EXIF tag, laid on white where it is transparent, its shorter side
    scaled to ``size`` pixels.

    Args:
        file: its path, or its content.

    Raises:
        UnreadableError: it cannot be decoded, or is more than ``MAX_ASPECT`` times as long as wide.
    """
    try:
        with Image.open(BytesIO(file) if isinstance(file, bytes) else file) as opened:
            image = _flatten(_upright(opened))
            width, height = image.size
            if max(width, height) > MAX_ASPECT * min(width, height):
                raise UnreadableError(f"{width}×{height} is more than {MAX_ASPECT} times as long as wide")
            scale = size / min(width, height)
            target = max(size, round(width * scale)), max(size, round(height * scale))
            pixels = np.array(image.resize(target, Image.Resampling.LANCZOS, reducing_gap=3.0))
    except UnreadableError:
        raise
    except Image.UnidentifiedImageError as error:
        raise UnreadableError("cannot identify image file") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders of broken files raise whatever comes
        raise UnreadableError(f"{error}".splitlines()[0] if str(error) else type(error).__name__) from error
    return torch.from_numpy(pixels).reshape(*pixels.shape[:2], -1).permute(2, 0, 1)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF tag says; as it lies where that cannot be read."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged tag costs no image
        turn = None
    return image if turn is None else image.transpose(turn)


def _flatten(image: Image.Image) -> Image.Image:
    """Grey or RGB, transparent parts on white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UnreadableError(f"pixels of mode {image.mode} have no known range")
    grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("L" if grey else "RGB")
