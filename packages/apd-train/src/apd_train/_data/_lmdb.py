"""An LMDB of encoded images, as LSUN's exporter writes it. Needs lmdb (``apd-train[lsun]``)."""

import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from ._decode import decode
from ._image_set import DataError, ImageSet
from ._lazy import UnreadableError
from ._reading import OnImage, check_size, faults_of, image_set

KEYS = "apd-keys.npy"


@dataclass(frozen=True, slots=True, eq=False)
class _LmdbStore:
    path: str
    keys: np.ndarray
    size: int
    channels: int = 3

    def __len__(self) -> int:
        return len(self.keys)

    def name(self, row: int) -> str:
        return bytes(self.keys[row]).decode("utf-8", "replace")

    def read(self, row: int) -> UInt8[Tensor, "_c _h _w"]:
        environment = _opened(self.path)
        import lmdb

        try:
            with environment.begin() as transaction:
                value = transaction.get(bytes(self.keys[row]))
        except lmdb.Error as error:
            raise UnreadableError(f"the database is damaged: {error}") from error
        if value is None:
            raise UnreadableError("no such key in the database")
        return decode(value, self.size)


def load_lmdb(path: str | Path, size: int, on_image: OnImage = None, in_memory: bool | None = None) -> ImageSet:
    """The images of an LMDB whose values are encoded images (LSUN: Yu et al. 2015, arXiv:1506.03365), without classes.

    Images are in the order of their keys. Listing the keys takes a pass over the database; they are therefore kept in
    ``apd-keys.npy`` beside it or, where that cannot be written, in the user's cache folder, and listed anew if the
    number of entries, the first or the last key is another. Each process opens the database for itself, read-only,
    without a lock and without reading ahead.

    Args:
        path: the folder of ``data.mdb``.
        size, on_image, in_memory: see :func:`load_folder`.

    Raises:
        DataError: lmdb is not installed, or there is no such database, or none with images.
    """
    check_size(size)
    folder = Path(path)
    with faults_of(folder):
        if not folder.exists():
            raise DataError(f"LMDB {folder} does not exist")
        if not (folder / "data.mdb").is_file():
            raise DataError(f"{folder} is no LMDB: there is no data.mdb in it")
        keys = _keys(str(folder), on_image)
    none = np.zeros(len(keys), dtype=np.int64)
    return image_set(_LmdbStore(str(folder), keys, size), none, (), size, str(folder), in_memory, on_image)


_lock = threading.Lock()


def _opened(path: str) -> Any:
    """By one thread at a time: what is open already cannot be opened again."""
    with _lock:
        return _open(path)


@lru_cache(maxsize=8)
def _open(path: str) -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise DataError('an LMDB needs the package lmdb: pip install "apd-train[lsun]"') from error
    present = os.path.getsize(os.path.join(path, "data.mdb"))
    try:
        environment = lmdb.open(path, readonly=True, create=False, lock=False, readahead=False, max_spare_txns=16)
    except lmdb.Error as error:
        reason = str(error).removeprefix(path).lstrip(": ") if present else "data.mdb has no content"
        raise DataError(f"{path} cannot be read as an LMDB: {reason}") from error
    end = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if present < end:  # to read on would end the process by a signal
        raise DataError(f"{path} is truncated: data.mdb has {present} of {end} bytes; copy it again")
    return environment


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # POSIX
    # An LMDB must not be open across a fork: each process opens its own, and no thread of the other one holds its lock.
    os.register_at_fork(before=_open.cache_clear, after_in_child=_new_lock)


def _keys(path: str, on_image: OnImage) -> np.ndarray:
    """All keys, from the cache if it is of this database."""
    environment = _opened(path)
    count = environment.stat()["entries"]
    if not count:
        raise DataError(f"the LMDB {path} is empty")
    with environment.begin() as transaction, transaction.cursor() as cursor:
        ends = [cursor.key() for go in (cursor.first, cursor.last) if go()]
        places = [
            Path(path) / KEYS,
            _cache_folder() / f"{blake2b(os.fsencode(os.path.realpath(path))).hexdigest()[:32]}.npy",
        ]
        for place in places:
            keys = _cached(place)
            if keys is not None and len(keys) == count and [bytes(keys[0]), bytes(keys[-1])] == ends:
                return keys
        keys = _listed(cursor, count, path, on_image)
    for place in places:
        if _write(place, keys):
            break
    return keys


def _listed(cursor: Any, count: int, path: str, on_image: Callable[[int, int], None] | None) -> np.ndarray:
    keys: list[bytes] = []
    cursor.first()
    for key in cursor.iternext(keys=True, values=False):
        keys.append(key)
        if on_image is not None and len(keys) % 10_000 == 0:
            on_image(len(keys), count)
    if any(key.endswith(b"\0") for key in keys):
        raise DataError(f"the LMDB {path} has keys that end in a zero byte: such a database is not of images by name")
    return np.array(keys)


def _cached(file: Path) -> np.ndarray | None:
    try:
        keys = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return keys if keys.ndim == 1 and keys.dtype.kind == "S" else None


def _write(file: Path, keys: np.ndarray) -> bool:
    """Whole or not at all; whether it is there."""
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as opened:
            temporary = opened.name
            np.save(opened, keys, allow_pickle=False)
        os.replace(temporary, file)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        return False
    return True


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "apd-train"
