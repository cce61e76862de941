"""Which images are completed, by which masks, and into which folders."""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from apd_generate import ImageError
from apd_train.app import UsageError

ENDINGS = frozenset(".png .jpg .jpeg .webp .avif .bmp .gif .tif .tiff .ppm .pgm .pnm".split())


@dataclass(frozen=True)
class Job:
    """Args:
    mask: None where only pixels beyond the image are painted, or where a folder of masks lacks it.
    out: the image's own folder.
    """

    image: Path
    mask: Path | None
    out: Path


def jobs_of(image: Path, mask: Path | None, out: Path) -> list[Job]:
    """One for a file, one for each image of a folder, in the order of their names; changes nothing.

    Raises:
        UsageError: files that are not there, a folder of masks for a single image, two images that would share a
            folder, or an ``out`` that cannot be one.
    """
    try:
        for path in (image, *([mask] if mask else [])):
            if not path.exists():
                raise UsageError(f"{path} does not exist")
        check_out(out)
        if not image.is_dir():
            if mask is not None and mask.is_dir():
                raise UsageError(f"{mask} is a folder, and --image a file: a folder of masks goes with one of images")
            return [Job(image, mask, out)]
        images = by_name(image)
        if not images:
            raise UsageError(f"{image} has no images: files that end in {', '.join(sorted(ENDINGS))}")
        masks = by_name(mask) if mask is not None and mask.is_dir() else dict.fromkeys(images, mask)
        if mask is not None and not images.keys() & masks.keys():
            raise UsageError(f"no mask in {mask} has the name of an image in {image}")
    except OSError as error:
        raise UsageError(f"{image} and its masks cannot be read: {error.strerror}") from error
    return [Job(file, masks.get(name), out / name) for name, file in images.items()]


def by_name(folder: Path) -> Mapping[str, Path]:
    """Images in a folder, by their names without the ending."""
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in ENDINGS and not file.name.startswith("."):
            if file.stem in found:
                raise UsageError(
                    f"{found[file.stem]} and {file.name} have the same name but for the ending: rename one"
                )
            found[file.stem] = file
    return found


def check_out(out: Path) -> None:
    """Refuses what cannot be a folder to write to; leaves nothing."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UsageError(f"{out} cannot be a folder: {there} is a file")
    try:
        with tempfile.TemporaryDirectory(prefix=".probe-", dir=there):
            pass
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror} in {there}") from error


def sha256(file: Path) -> str:
    """Raises:
    ImageError: it cannot be read.
    """
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(f"{file} cannot be read: {error.strerror}") from error
