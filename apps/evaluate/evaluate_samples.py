"""Images that were drawn elsewhere: a folder of PNG files or an `.npz`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from evaluate_options import FEWEST
from torch import Tensor

from apd_generate import read_image
from apd_metrics import ReferenceFileError, read_reference, reference_images
from apd_train.app import UsageError

AT_A_TIME = 64


@dataclass(frozen=True)
class Samples:
    """Args:
    place: where they are.
    count, height, width: how many, and how large.
    batches: of them, with values in [-1, 1].
    """

    place: Path
    count: int
    height: int
    width: int
    batches: Callable[[], Iterator[Tensor]]


def samples_of(place: Path, count: int | None) -> Samples:
    """All of them, or the first ``count``.

    Of a folder, the files that are named as apps/sample names images, seed-000000.png, or, where there is none, all PNG
    files below it: those of other formats have lost something.
    """
    found = _of_folder(place) if place.is_dir() else _of_file(place)
    if found.count < FEWEST:
        raise UsageError(f"quality takes {FEWEST} samples at least, and {place} has {found.count}")
    if count is None:
        return found
    if count > found.count:
        raise UsageError(f"--images {count}: {place} has {found.count} images")
    return Samples(place, count, found.height, found.width, lambda: _first(count, found.batches()))


def _of_folder(folder: Path) -> Samples:
    try:
        files = sorted(folder.glob("seed-*.png")) or sorted(folder.rglob("*.png"))
        files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}") from error
    if not files:
        raise UsageError(f"{folder} has no PNG files to look at")
    height, width = _read(files[0]).shape[1:]

    def batches() -> Iterator[Tensor]:
        for first in range(0, len(files), AT_A_TIME):
            images = [_read(file) for file in files[first : first + AT_A_TIME]]
            for file, image in zip(files[first:], images, strict=False):
                if image.shape[1:] != (height, width):
                    raise UsageError(
                        f"{file} has {image.shape[1]}×{image.shape[2]} pixels and {files[0].name} {height}×{width}: "
                        "samples are of one size"
                    )
            yield torch.stack(images)

    return Samples(folder, len(files), height, width, batches)


def _of_file(file: Path) -> Samples:
    if file.suffix != ".npz":
        raise UsageError(f"--samples {file} is neither a folder nor an .npz file")
    try:
        count = read_reference(file).images
        if not count:
            raise UsageError(f"{file} has no images: samples are its arr_0")
        height, width = next(reference_images(file, 1)).shape[2:]
    except ReferenceFileError as error:
        raise UsageError(str(error)) from error

    def batches() -> Iterator[Tensor]:
        try:
            yield from reference_images(file, AT_A_TIME)
        except ReferenceFileError as error:
            raise UsageError(str(error)) from error

    return Samples(file, count, height, width, batches)


def _first(count: int, batches: Iterator[Tensor]) -> Iterator[Tensor]:
    for images in batches:
        yield images[:count]
        count -= len(images)
        if count <= 0:
            return


def _read(file: Path) -> Tensor:
    """In RGB, so that all are alike."""
    image = read_image(file)
    if image.mode not in ("L", "RGB"):
        raise UsageError(f"{file} has transparency or 16 bits a channel: samples are grey or RGB, of 8 bits")
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)
