"""Arrays of images: ``.npz`` or ``.safetensors``."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ._image_set import DataError, ImageSet
from ._lazy import Lazy
from ._reading import MEMORY_LIMIT, check_size, faults_of


@dataclass(frozen=True, slots=True, eq=False)
class ArrayStore:
    """Args:
    images: mapped from the file.
    """

    images: UInt8[Tensor, "n c h w"]

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, row: int) -> str:
        return str(row)

    def read(self, row: int) -> UInt8[Tensor, "c h w"]:
        return self.images[row]


def load_arrays(path: str | Path, size: int) -> ImageSet:
    """Images in an array: ``images``, uint8, (n, c, h, w), (n, h, w, c) or (n, h, w), and optional ``labels``.

    Class names are in the array ``names`` of an ``.npz``, or in the metadata of a ``.safetensors``, as JSON; without
    them classes are named by their numbers. Up to 8 GiB are read into memory. Larger ones are mapped, which takes
    ``.safetensors`` or an ``.npz`` that is not compressed (``numpy.savez``).

    Args:
        size: of the images' shorter side, in pixels; images are not scaled.

    Raises:
        DataError: the file is missing, or its arrays are not such arrays.
    """
    check_size(size)
    arrays, names = read_arrays(Path(path))
    if "images" not in arrays:
        raise DataError(f"{path} has no array images; it has {', '.join(sorted(arrays)) or 'none'}")
    images = arrays["images"]
    if images.dtype != torch.uint8 or images.ndim not in (3, 4) or not len(images):
        raise DataError(
            f"images in {path} are {images.dtype} of shape {tuple(images.shape)}: expected uint8, (n, c, h, w), "
            "(n, h, w, c) or (n, h, w)"
        )
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[1] not in (1, 3):
        images = images.movedim(-1, 1)
    if images.shape[1] not in (1, 3):
        raise DataError(f"images in {path} are of shape {tuple(arrays['images'].shape)}: expected 1 or 3 channels")
    if min(images.shape[2:]) != size:
        raise DataError(f"images in {path} have {min(images.shape[2:])} pixels on the shorter side, not {size}")
    labels, classes = labelled(arrays.get("labels"), names, len(images), str(path))
    if images.numel() > MEMORY_LIMIT:
        return ImageSet(Lazy(ArrayStore(images), np.arange(len(images))), labels, classes, size)
    return ImageSet([*images.contiguous()], labels, classes, size)


def read_arrays(file: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The arrays of a file, mapped where possible, and names of classes.

    Raises:
        DataError: there is no such file.
    """
    with faults_of(file):
        if not file.is_file():
            raise DataError(f"{file} is not a file" if file.exists() else f"{file} does not exist")
        if file.suffix.lower() == ".safetensors":
            arrays, metadata = read_safetensors(file)
            return arrays, names_of(metadata.get("names"), file)
        return _npz(file)


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, mapped, and metadata."""
    file.open("rb").close()  # of a file that may not be read, the library says that there is none
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}
    except SafetensorError as error:
        raise DataError(f"{file} is not a safetensors file, or a damaged one: {error}") from error


def names_of(said: str | None, file: Path) -> tuple[str, ...]:
    """Names of classes from JSON."""
    if said is None:
        return ()
    try:
        names = json.loads(said)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"names in the metadata of {file} are a list of texts as JSON, not {said[:40]}")
    return tuple(names)


def labelled(labels: Tensor | None, names: tuple[str, ...], count: int, where: str) -> tuple[Tensor, tuple[str, ...]]:
    """Labels, checked, and names of classes, numbers where they have none."""
    if labels is None:
        return torch.zeros(count, dtype=torch.long), ()
    if labels.shape != (count,) or labels.is_floating_point() or labels.is_complex():
        raise DataError(
            f"labels in {where} are {labels.dtype} of shape {tuple(labels.shape)}: expected {count} integers"
        )
    labels = labels.long()
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or (names and most >= len(names)):
        which = f"0 to {len(names) - 1}, by the names" if names else "numbers from 0 on"
        raise DataError(f"labels in {where} run from {least} to {most}: classes are {which}")
    return labels, names or tuple(str(k) for k in range(most + 1))


def _npz(file: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    arrays: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(file) as opened, np.load(file, allow_pickle=False) as loaded:
            for info in opened.infolist():
                name = info.filename.removesuffix(".npy")
                if info.file_size > MEMORY_LIMIT and info.compress_type != zipfile.ZIP_STORED:
                    raise DataError(f"{file} is too large to be held in memory: save it by numpy.savez, uncompressed")
                arrays[name] = _mapped(file, info) if info.file_size > MEMORY_LIMIT else loaded[name]
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} is not an .npz of plain arrays, or a damaged one: {error}".splitlines()[0]) from error
    names = tuple(str(name) for name in arrays.pop("names", ()))
    return _tensors(arrays, file), names


def _tensors(arrays: Mapping[str, np.ndarray], file: Path) -> dict[str, Tensor]:
    try:
        return {name: torch.as_tensor(array) for name, array in arrays.items()}
    except TypeError as error:
        raise DataError(f"{file} has arrays that are not of numbers: {error}".splitlines()[0]) from error


def _mapped(file: Path, info: zipfile.ZipInfo) -> np.ndarray:
    """An array that is stored as it is, mapped from inside the zip file."""
    with file.open("rb") as opened:
        opened.seek(info.header_offset + 26)
        opened.seek(sum(np.frombuffer(opened.read(4), dtype="<u2").tolist()), 1)
        version = np.lib.format.read_magic(opened)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(opened)
        # Private and writable, since tensors that cannot be written to do not exist; nobody writes.
        return np.memmap(file, dtype, "c", opened.tell(), shape, "F" if fortran else "C")
