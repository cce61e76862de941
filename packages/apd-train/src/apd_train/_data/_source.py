"""Where a run's images come from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from ._embedded import load_animals28
from ._folder import load_folder
from ._image_set import DataError, ImageSet


@runtime_checkable
class DataSource(Protocol):
    """Loads images for training at a given side in pixels; raises :class:`DataError`."""

    def load(self, size: int, on_image: Callable[[int, int], None] | None = None) -> ImageSet: ...


@dataclass(frozen=True, slots=True)
class Animals28:
    """The embedded silhouettes, see :func:`load_animals28`."""

    def load(self, size: int, on_image: Callable[[int, int], None] | None = None) -> ImageSet:
        if size != 28:
            raise DataError(f"the embedded animals have 28 pixels a side, not {size}")
        return load_animals28()


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """A folder of images, see :func:`load_folder`."""

    path: Path

    def load(self, size: int, on_image: Callable[[int, int], None] | None = None) -> ImageSet:
        return load_folder(self.path, size, on_image)
