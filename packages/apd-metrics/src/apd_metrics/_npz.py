"""Arrays in ``.npz`` files, read as a stream and never by unpickling."""

import lzma
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

BROKEN = (
    *(OSError, EOFError, ValueError, RuntimeError, KeyError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
"""What reading a damaged archive may raise."""


class ReferenceFileError(ValueError):
    """A file does not hold a reference that can be read. The message is one line."""


@dataclass(frozen=True, slots=True)
class Member:
    """An array in an open archive: what its header says, and how to read on in its values."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int], bytes]

    def rows(self, batch: int) -> Iterator[np.ndarray]:
        """The array in parts of ``batch`` along its first dimension; no more than one of them is in memory."""
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        for first in range(0, self.shape[0], batch):
            count = min(batch, self.shape[0] - first)
            part = self.read(count * size)
            if len(part) < count * size:
                raise ReferenceFileError(f"the array ends early: {first} of {self.shape[0]} rows are whole")
            yield np.frombuffer(part, self.dtype).reshape(count, *self.shape[1:])


@contextmanager
def archive_of(file: Path) -> Iterator[zipfile.ZipFile]:
    """Opens an ``.npz`` file; whatever is wrong inside it becomes one line.

    Raises:
        ReferenceFileError: it is missing, or damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except BROKEN as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise ReferenceFileError(f"{file} cannot be read as .npz: {reason:.200}") from error


@contextmanager
def member(archive: zipfile.ZipFile, name: str) -> Iterator[Member]:
    """Opens an array of an archive, without reading its values."""
    with archive.open(f"{name}.npy") as stream:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ReferenceFileError(
                f"{name} has version {version} of the .npy format; versions 1.0 and 2.0 can be read"
            )
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        if dtype.hasobject:
            raise ReferenceFileError(
                f"{name} holds Python objects, which are never read: save it as an array of numbers"
            )
        if fortran and len(shape) > 1:
            raise ReferenceFileError(f"{name} is stored column by column; save numpy.ascontiguousarray of it")
        yield Member(shape, dtype, stream.read)
