"""A zip file of images: classes by folder, or by EDM2's and StyleGAN's ``dataset.json``."""

import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np
from jaxtyping import Int64, UInt8
from torch import Tensor

from ._decode import EXTENSIONS, decode
from ._image_set import DataError, ImageSet
from ._lazy import UnreadableError
from ._reading import OnImage, by_first_folder, check_size, image_set

LABELS = "dataset.json"
_HEADER = struct.Struct("<4s22xHH")


@dataclass(frozen=True, slots=True, eq=False)
class _ZipStore:
    """Entries are read by their place in the file: a directory of a million need not be parsed in every process.

    Args:
        names: of entries, UTF-8.
        entries: offset of the local header, compressed size, size, CRC-32, and whether it is compressed.
    """

    path: str
    names: np.ndarray
    entries: Int64[np.ndarray, "n 5"]
    size: int
    channels: int = 3

    def __len__(self) -> int:
        return len(self.names)

    def name(self, row: int) -> str:
        return bytes(self.names[row]).decode("utf-8", "replace")

    def read(self, row: int) -> UInt8[Tensor, "_c _h _w"]:
        return decode(self._content(*self.entries[row].tolist()), self.size)

    def _content(self, offset: int, compressed: int, size: int, crc: int, deflated: int) -> bytes:
        try:
            with open(self.path, "rb") as file:
                file.seek(offset)
                magic, name, extra = _HEADER.unpack(file.read(_HEADER.size))
                if magic != b"PK\3\4":
                    raise UnreadableError("the zip file is damaged: no entry where its directory says")
                file.seek(name + extra, os.SEEK_CUR)
                data = file.read(compressed)
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1) if deflated else data
        except (OSError, struct.error, zlib.error) as error:
            raise UnreadableError(f"the zip file is damaged: {error}") from error
        if len(content) != size or zlib.crc32(content) != crc:
            raise UnreadableError("the zip file is damaged: the entry's checksum is another")
        return content


def load_zip(
    path: str | Path, size: int, on_image: OnImage = None, in_memory: bool | None = None, folder: str = ""
) -> ImageSet:
    """The images of a zip file, at training size, in the order of their names.

    With a ``dataset.json``, as EDM2's and StyleGAN's tools write it, ``{"labels": [["00000/img0.png", 3], …]}`` gives
    the classes, named by their numbers, and ``{"labels": null}`` says that there are none. Without one, a class is a
    folder, as in :func:`load_folder`.

    Args:
        size, on_image, in_memory: see :func:`load_folder`.
        folder: inside the zip file; only what lies in it is read.

    Raises:
        DataError: the file is missing, is no zip file, holds no readable image or does not fit into memory.
    """
    check_size(size)
    try:
        with ZipFile(path) as file:
            inside = PurePosixPath(folder.strip("/") or _only_folder(file))
            where = f"{path}/{folder.strip('/')}" if folder else str(path)
            infos = sorted(
                ((parts, info) for info in file.infolist() if (parts := _parts(info, inside))), key=lambda pair: pair[0]
            )
            at = str(inside / LABELS)
            said = _said(file, at, where) if at in file.namelist() else None
    except FileNotFoundError as error:
        raise DataError(f"zip file {path} does not exist") from error
    except (BadZipFile, IsADirectoryError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a zip file, or a damaged one") from error
    except NotImplementedError as error:  # zipfile's, of a format newer than it knows
        raise DataError(f"{path} is in a way that cannot be read: {error}: zip the images anew") from error
    except OSError as error:
        raise DataError(f"zip file {path} cannot be read: {error.strerror}") from error
    if not infos:
        raise DataError(f"no images in {where}: expected {', '.join(sorted(EXTENSIONS))}, a class in each folder")
    for parts, info in infos:
        if info.flag_bits & 1 or info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            way = "encrypted" if info.flag_bits & 1 else "compressed in an unusual way"
            raise DataError(f"{where} has entries that are {way}, such as {'/'.join(parts)}: zip the images anew")
    names = ["/".join(parts) for parts, _ in infos]
    labels, classes = (
        by_first_folder((parts for parts, _ in infos), where) if said is None else _labelled(said, names, where)
    )
    entries = [
        (info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type == ZIP_DEFLATED)
        for _, info in infos
    ]
    store = _ZipStore(
        str(path),
        np.array([name.encode("utf-8", "replace") for name in names]),
        np.array(entries, dtype=np.int64),
        size,
    )
    return image_set(store, labels, classes, size, where, in_memory, on_image)


def _only_folder(file: ZipFile) -> str:
    """The folder that a set of images was zipped with, if there is one: all images are in it, below a folder each, or
    with their labels."""
    paths = [parts for info in file.infolist() if (parts := _parts(info, PurePosixPath()))]
    tops = {parts[0] for parts in paths}
    if len(tops) != 1 or LABELS in file.namelist():
        return ""
    (top,) = tops
    alone = f"{top}/{LABELS}" in file.namelist() or all(len(parts) > 2 for parts in paths)
    return top if alone else ""


def _parts(info: ZipInfo, inside: PurePosixPath) -> tuple[str, ...] | None:
    """The entry's path below the folder, if it is an image that is not hidden."""
    path = PurePosixPath(info.filename.replace("\\", "/"))  # of archives made on Windows
    if info.is_dir() or path.suffix.lower() not in EXTENSIONS or not path.is_relative_to(inside):
        return None
    parts = path.relative_to(inside).parts
    return None if any(part.startswith(".") or part == "__MACOSX" for part in parts) else parts


def _said(file: ZipFile, name: str, where: str) -> object:
    """What ``dataset.json`` says."""
    try:
        return json.loads(file.read(name))
    except (ValueError, BadZipFile, zlib.error, RuntimeError) as error:  # zipfile's are also of locks and methods
        raise DataError(f"the {LABELS} of {where} cannot be read: {error}") from error


def _labelled(said: Any, names: list[str], where: str) -> tuple[list[int], tuple[str, ...]]:
    """Labels and class names by ``dataset.json``."""
    if not isinstance(said, Mapping) or "labels" not in said:
        raise DataError(f"the {LABELS} of {where} has no labels: expected {{'labels': [[name, class], …]}} or null")
    if said["labels"] is None:
        return [0] * len(names), ()
    try:
        label_of = {str(name): label for name, label in said["labels"]}
    except (TypeError, ValueError) as error:
        raise DataError(f"the labels in the {LABELS} of {where} are not pairs of a name and a class") from error
    if missing := next((name for name in names if name not in label_of), None):
        raise DataError(f"the {LABELS} of {where} has no label for {missing}")
    labels = [label_of[name] for name in names]
    if bad := [label for label in labels if type(label) is not int or label < 0]:
        raise DataError(f"a label in the {LABELS} of {where} is a class number from 0 on, not {bad[0]!r}")
    return labels, tuple(str(k) for k in range(max(labels) + 1))
