"""Images of anybody's, read without harm."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM")
_GREY = ("1", "L", "LA", "La")
_COLOURS_KEPT = ("L", "LA", "RGB", "RGBA", "P", "PA")


class ImageError(ValueError):
    """An image or mask that cannot be used. The message is one line and says what would be right."""


def read_image(source: Path | bytes, *, max_pixels: int = 64_000_000) -> Image.Image:
    """An image of any kind, with the pixels that its file has.

    What it is, its content tells, not its name. It is turned upright by its EXIF tag; of an animation it is the first
    frame. Palettes and single bits become grey or RGB, which changes no colour; CMYK and the like become RGB. An ICC
    profile is kept where it still holds, other metadata are not.

    Args:
        source: its path, or its content.
        max_pixels: refuse larger ones. The header tells, before anything is decoded.

    Returns:
        In mode L, LA, RGB, RGBA or I;16.

    Raises:
        ImageError: there is no such file, or no image of one of the known formats (PNG, JPEG, WebP, AVIF, BMP, GIF,
            TIFF, PNM), or one that is broken, cut off, too large, or whose values have no known range.
    """
    name = "the image" if isinstance(source, bytes) else str(source)
    try:
        if isinstance(source, Path) and source.is_dir():
            raise ImageError(f"{name} is a folder, not an image")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd about a file that can be read; large ones are refused below
            reader = io.BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(reader, formats=FORMATS) as opened:
                if opened.width * opened.height > max_pixels:
                    raise ImageError(f"{name} has {opened.width}×{opened.height} pixels, {_too_many(max_pixels)}")
                deep = ";16" in str(opened.tile)
                opened.load()
                return _plain(ImageOps.exif_transpose(opened), name, opened.format, deep)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(f"{name} is too large, {_too_many(min(max_pixels, limit))}") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name} is no image that can be read, which are {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders of broken files raise whatever comes
        said = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name} cannot be read: {said}") from error


def _too_many(most: int) -> str:
    return f"and at most {most / 1e6:g} million can be read: make it smaller"


def _plain(image: Image.Image, name: str, kind: str | None, deep: bool) -> Image.Image:
    """In one of five modes, with no metadata but what its colours mean; ``info["converted"]`` says what was lost.

    Args:
        deep: colours of 16 bits, of which Pillow keeps 8.
    """
    mode, profile = image.mode, image.info.get("icc_profile")
    if mode.startswith("I;16") or (mode, kind) == ("I", "PPM"):  # Pillow scales 16 bits of a PGM to the full range
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    if mode in ("I", "F"):
        raise ImageError(f"{name} has pixels of 32 bits, of no known range: save it with 8 or 16 bits a channel")
    plain = image.convert(("L" if mode in _GREY else "RGB") + "A" * image.has_transparency_data)
    plain.info = {"icc_profile": profile} if profile and mode in _COLOURS_KEPT else {}
    if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        plain.info["converted"] = f"{mode} as RGB"
    elif deep:
        plain.info["converted"] = "16 bits a channel as 8"
    return plain
