"""A folder of images, a class for each sub-folder."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from ._decode import EXTENSIONS, decode
from ._image_set import DataError, ImageSet
from ._reading import OnImage, by_first_folder, check_size, faults_of, image_set, text


@dataclass(frozen=True, slots=True, eq=False)
class _FolderStore:
    """Args:
    names: of files, relative to ``root``, in the file system's bytes: a million of them are a small array.
    """

    root: str
    names: np.ndarray
    size: int
    channels: int = 3

    def __len__(self) -> int:
        return len(self.names)

    def name(self, row: int) -> str:
        return bytes(self.names[row]).decode("utf-8", "replace")

    def read(self, row: int) -> UInt8[Tensor, "_c _h _w"]:
        return decode(os.path.join(self.root, os.fsdecode(bytes(self.names[row]))), self.size)


def load_folder(folder: str | Path, size: int, on_image: OnImage = None, in_memory: bool | None = None) -> ImageSet:
    """The images below a folder, at training size.

    A class is a sub-folder of ``folder``, at any depth below it; images that lie in ``folder`` itself, where there are
    no others, make an unconditional set. Each image is turned upright by its EXIF tag, laid on white where it is
    transparent and scaled so that its shorter side has ``size`` pixels. Extensions are read in either case; hidden
    files are left out. Images are in the order of their paths.

    In memory, the set is grey if every image is, else RGB, and a file that cannot be decoded is skipped and named. A
    set that is read when needed is RGB, and such a file is found out, and named, only then.

    Args:
        size: of the square images to train on, in pixels.
        on_image: called with (images read, images in all) as reading goes on.
        in_memory: by default if the images need no more than 8 GiB; else each is read when it is needed.

    Raises:
        DataError: the folder is missing, holds no readable image or does not fit into memory.
    """
    check_size(size)
    root = Path(folder)
    with faults_of(f"data folder {root}"):
        if not root.is_dir():
            raise DataError(f"{root} is not a folder" if root.exists() else f"data folder {root} does not exist")
        files = sorted(name.split(os.sep) for name in _images_below(str(root)))
    if not files:
        raise DataError(f"no images in {root}: expected {', '.join(sorted(EXTENSIONS))}, a class in each sub-folder")
    labels, classes = by_first_folder(files, text(str(root)))
    names = np.array([os.fsencode(os.sep.join(parts)) for parts in files])
    return image_set(_FolderStore(str(root), names, size), labels, classes, size, text(str(root)), in_memory, on_image)


def _images_below(root: str) -> Iterator[str]:
    """Their names relative to ``root``. Links to folders are followed, but none into a folder that it lies in."""
    inside: dict[str, set[str]] = {root: {os.path.realpath(root)}}
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
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS:
                yield os.path.relpath(os.path.join(place, name), root)


def _refuse(error: OSError) -> None:
    raise error
