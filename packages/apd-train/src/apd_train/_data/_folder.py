"""A folder of images, a class for each sub-folder."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from ._image_set import DataError, ImageSet

EXTENSIONS = frozenset([".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"])
MEMORY_LIMIT = 8 * 2**30
MAX_ASPECT = 4


def load_folder(folder: str | Path, size: int, on_image: Callable[[int, int], None] | None = None) -> ImageSet:
    """Reads all images below a folder into memory, at training size.

    A class is a sub-folder of ``folder``, at any depth below it; images that lie in ``folder`` itself, where there are
    no others, make an unconditional set. Each image is turned upright by its EXIF tag, laid on white where it is
    transparent and scaled so that its shorter side has ``size`` pixels. The set is grey if every image is, else RGB.
    Extensions are read in either case; hidden files are left out. A file that cannot be decoded is skipped and named.

    Args:
        size: of the square images to train on, in pixels.
        on_image: called with (images read, images in all) as reading goes on.

    Raises:
        DataError: the folder is missing, holds no readable image or does not fit into memory.
    """
    root = Path(folder)
    try:
        if not root.is_dir():
            raise DataError(f"{root} is not a folder" if root.exists() else f"data folder {root} does not exist")
        files = sorted(_images_below(root))
    except OSError as error:
        raise DataError(f"data folder {root} cannot be read: {error.strerror}") from error
    if not files:
        raise DataError(f"no images in {root}: expected {', '.join(sorted(EXTENSIONS))}, a class in each sub-folder")
    need = len(files) * 3 * size * size
    if need > MEMORY_LIMIT:
        raise DataError(
            f"{len(files)} images of {size} pixels need {need / 2**30:.0f} GiB, over the {MEMORY_LIMIT >> 30} GiB that "
            "are held in memory: choose a smaller --size or fewer images"
        )
    loose = [file for file in files if _class_of(file, root) is None]
    if loose and len(loose) < len(files):
        raise DataError(
            f"{root} has both classes (sub-folders) and {len(loose)} images beside them, such as "
            f"{_text(loose[0].name)}: move these into a sub-folder, or train on one of the two"
        )
    images: list[tuple[str | None, UInt8[Tensor, "c h w"]]] = []
    skipped: list[str] = []
    pool = ThreadPoolExecutor()
    try:
        for file, result in zip(files, pool.map(lambda f: _decode(f, size), files), strict=True):
            if isinstance(result, str):
                skipped.append(f"{_text(str(file.relative_to(root)))}: {result}")
            else:
                images.append((_class_of(file, root), result))
            if on_image is not None:
                on_image(len(images) + len(skipped), len(files))
    finally:
        pool.shutdown(cancel_futures=True)
    if not images:
        raise DataError(f"none of the {len(files)} images in {root} can be read; the first is {skipped[0]}")
    classes = sorted({name for name, _ in images if name is not None})
    channels = max(len(image) for _, image in images)
    labels = [classes.index(name) if name is not None else 0 for name, _ in images]
    return ImageSet(
        [image.expand(channels, -1, -1) for _, image in images],
        torch.tensor(labels),
        tuple(map(_text, classes)),
        size,
        tuple(skipped),
    )


def _images_below(root: Path) -> Iterator[Path]:
    """Links to folders are followed, but none into a folder that it lies in."""
    inside: dict[str, set[str]] = {str(root): {os.path.realpath(root)}}
    for place, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
        around = inside.pop(place)
        kept = []
        for name in folders:
            real = os.path.realpath(os.path.join(place, name))
            if not name.startswith(".") and real not in around:
                kept.append(name)
                inside[os.path.join(place, name)] = around | {real}
        folders[:] = kept
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS:
                yield Path(place, name)


def _refuse(error: OSError) -> None:
    raise error


def _text(name: str) -> str:
    """A file's name as text that can be written, also where it is not valid UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")


def _class_of(file: Path, root: Path) -> str | None:
    parts = file.relative_to(root).parts
    return parts[0] if len(parts) > 1 else None


def _decode(file: Path, size: int) -> UInt8[Tensor, "c h w"] | str:
    """The image, or why it cannot be used."""
    try:
        with Image.open(file) as opened:
            image = _flatten(ImageOps.exif_transpose(opened))
            width, height = image.size
            if max(width, height) > MAX_ASPECT * min(width, height):
                return f"{width}×{height} is more than {MAX_ASPECT} times as long as wide"
            scale = size / min(width, height)
            target = max(size, round(width * scale)), max(size, round(height * scale))
            pixels = np.array(image.resize(target, Image.Resampling.LANCZOS, reducing_gap=3.0))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"{error}".splitlines()[0] if str(error) else type(error).__name__
    return torch.from_numpy(pixels).reshape(*pixels.shape[:2], -1).permute(2, 0, 1)


def _flatten(image: Image.Image) -> Image.Image:
    """Grey or RGB, transparent parts on white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range")
    grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("L" if grey else "RGB")
