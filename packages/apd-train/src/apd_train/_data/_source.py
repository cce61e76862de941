"""Where a run's images come from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from ._arrays import load_arrays, read_safetensors
from ._embedded import load_animals28
from ._folder import load_folder
from ._image_set import DataError, ImageSet
from ._latent_set import is_encoded
from ._latents import load_latents
from ._lmdb import load_lmdb
from ._parquet import load_parquet
from ._reading import faults_of
from ._zip import load_zip


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
    in_memory: bool | None = None

    def load(self, size: int, on_image: Callable[[int, int], None] | None = None) -> ImageSet:
        return load_folder(self.path, size, on_image, self.in_memory)


@dataclass(frozen=True, slots=True)
class ImageZip:
    """A zip file of images, see :func:`load_zip`."""

    path: Path
    in_memory: bool | None = None
    folder: str = ""

    def load(self, size: int, on_image: Callable[[int, int], None] | None = None) -> ImageSet:
        return load_zip(self.path, size, on_image, self.in_memory, self.folder)


@dataclass(frozen=True, slots=True)
class ImageLmdb:
    """An LMDB of images, such as LSUN's, see :func:`load_lmdb`."""

    path: Path
    in_memory: bool | None = None

    def load(self, size: int, on_image: Callable[[int, int], None] | None = None) -> ImageSet:
        return load_lmdb(self.path, size, on_image, self.in_memory)


@dataclass(frozen=True, slots=True)
class ImageParquet:
    """Parquet files of images, see :func:`load_parquet`."""

    path: Path
    in_memory: bool | None = None
    image: str = "image"
    label: str = "label"
    split: str | None = None

    def load(self, size: int, on_image: Callable[[int, int], None] | None = None) -> ImageSet:
        return load_parquet(self.path, size, on_image, self.in_memory, self.image, self.label, self.split)


@dataclass(frozen=True, slots=True)
class ImageArrays:
    """An ``.npz`` or ``.safetensors`` of images, see :func:`load_arrays`."""

    path: Path

    def load(self, size: int, on_image: Callable[[int, int], None] | None = None) -> ImageSet:
        return load_arrays(self.path, size)


@dataclass(frozen=True, slots=True)
class Latents:
    """Pre-encoded images, see :func:`load_latents`; sizes are of the latents."""

    path: Path

    def load(self, size: int, on_image: Callable[[int, int], None] | None = None) -> ImageSet:
        return load_latents(self.path, size)


def source_of(path: str | Path) -> DataSource:
    """The data at a path, by what is there; nothing but names is looked at, and the header of a ``.safetensors``.

    ============================================= =====================
    a folder with ``data.mdb``                    :class:`ImageLmdb`
    a folder with ``.parquet`` files, or one file :class:`ImageParquet`
    a folder with ``.safetensors`` files          :class:`Latents`
    a folder that ``apps/encode`` writes to       :class:`Latents`
    any other folder                              :class:`ImageFolder`
    ``.zip``                                      :class:`ImageZip`
    ``.npz``                                      :class:`ImageArrays`
    ``.safetensors``                              :class:`ImageArrays` or :class:`Latents`, by its tensors
    ============================================= =====================

    Raises:
        DataError: there is nothing, or no data of these kinds.
    """
    path = Path(path)
    with faults_of(path):
        if path.is_dir():
            return _of_folder(path)
        exists = path.exists()
    match path.suffix.lower():
        case _ if not exists:
            raise DataError(f"data {path} does not exist")
        case ".zip":
            return ImageZip(path)
        case ".parquet":
            return ImageParquet(path)
        case ".npz":
            return ImageArrays(path)
        case ".safetensors":
            return ImageArrays(path) if "images" in read_safetensors(path)[0] else Latents(path)
        case ".mdb":
            return ImageLmdb(path.parent)
    raise DataError(
        f"{path} is no data that can be read: expected a folder or .zip of images, a folder with data.mdb (LSUN), a "
        "folder or file of .parquet, an .npz or .safetensors of images, or a folder of .safetensors of latents"
    )


def _of_folder(path: Path) -> DataSource:
    kinds = {file.suffix.lower() for file in path.iterdir()}
    if (path / "data.mdb").is_file():
        return ImageLmdb(path)
    if ".parquet" in kinds or next(path.glob("data/*.parquet"), None) is not None:  # as downloaded from a hub
        return ImageParquet(path)
    return Latents(path) if ".safetensors" in kinds or is_encoded(path) else ImageFolder(path)
